package main

import (
	"os"
	"strings"
	"syscall"
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

// end ends the machine: by its init, or, where that knows no such signals, at once.
func (e machineEnd) end() {
	if initTakesSignals() {
		if err := syscall.Kill(1, e.signal); err == nil {
			return
		}
	}
	syscall.Sync()
	if err := syscall.Reboot(e.reboot); err != nil {
		report("reboot: " + err.Error())
	}
}

// initTakesSignals says whether PID 1 is systemd or this program.
func initTakesSignals() bool {
	name := string(firstLine("/proc/1/comm"))
	if name == "systemd" {
		return true
	}
	program, err := os.Readlink("/proc/1/exe")
	own, ownErr := os.Readlink("/proc/self/exe")
	return err == nil && ownErr == nil && (program == own || strings.HasSuffix(program, agentProgram))
}
