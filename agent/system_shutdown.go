package main

import (
	"os"
	"strings"
	"syscall"
	"time"
)

// machineEnd is how a machine ends.
type machineEnd struct {
	// signal asks systemd, and the agent as init, for it: SIGRTMIN+3 to 5 of systemd(1).
	signal syscall.Signal
	reboot int // what reboot(2) is asked for where there is no such init
}

var endings = map[string]machineEnd{
	"halt":     {37, syscall.LINUX_REBOOT_CMD_HALT},
	"poweroff": {38, syscall.LINUX_REBOOT_CMD_POWER_OFF},
	"reboot":   {39, syscall.LINUX_REBOOT_CMD_RESTART},
}

// mayEnd says why the machine cannot be ended; nil if it can.
func mayEnd() error {
	if os.Geteuid() != 0 {
		return os.NewSyscallError("reboot", syscall.EPERM)
	}
	return nil
}

// An init that has only begun does not get its signals yet, and nothing tells when it does: it is asked
// again and again. Who is asked already takes no harm.
const (
	askAgain  = time.Second
	askAtMost = 60
)

// end ends the machine: by its init, or, where that knows no such signals, at once. The init ends this
// program on its way.
func (e machineEnd) end() {
	for range askAtMost {
		if !initTakesSignals() || syscall.Kill(1, e.signal) != nil {
			break
		}
		time.Sleep(askAgain)
	}
	syscall.Sync()
	if err := syscall.Reboot(e.reboot); err != nil {
		report("reboot: " + err.Error())
	}
}

// initTakesSignals says whether PID 1 is systemd or this program.
func initTakesSignals() bool {
	program, err := os.Readlink("/proc/1/exe")
	// By its program: its name is init until it gives itself its own.
	if err == nil && strings.HasSuffix(program, "/systemd") {
		return true
	}
	own, ownErr := os.Readlink("/proc/self/exe")
	return err == nil && ownErr == nil && (program == own || strings.HasSuffix(program, agentProgram))
}
