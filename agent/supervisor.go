package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// agentPause is between an agent's end and the start of the next; agentStarts in agentWindow are
	// the most: the same as the unit's that systemd would start.
	agentPause  = 2 * time.Second
	agentStarts = 5
	agentWindow = time.Minute
	// networkGrace is how long the service waits for the network to be there.
	networkGrace = 10 * time.Second
	// endGrace is how long processes have after SIGTERM until they are killed.
	endGrace = 5 * time.Second
)

// endSignals ask PID 1 to power off: what a machine's host, container engines, busybox and systemd's
// tools send. Ctrl-Alt-Del is SIGINT. (37 to 39 are SIGRTMIN+3 to 5: halt, power off, restart.)
var endSignals = []os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.Signal(37), syscall.Signal(38), syscall.Signal(39),
}

// suppliesInit says whether this program is the image's init: there is no other, or it is a link to it.
func suppliesInit(init string) bool {
	program, err := os.Stat(agentProgram)
	if err != nil {
		return false
	}
	status, err := os.Stat(init)
	return os.IsNotExist(err) || err == nil && os.SameFile(status, program)
}

// supervisor is PID 1 of a machine whose image has no init of its own. All processes are started and
// collected by one goroutine, so that none ends before it is known.
type supervisor struct {
	service service
	running int // the service's process, 0 if there is none
	agent   int // the agent's process, 0 if there is none
	starts  startLimit
}

// startLimit keeps what always fails from being started for ever: it is when the last starts were.
type startLimit []time.Time

// take says whether there may be another start now, and counts it.
func (l *startLimit) take(now time.Time) bool {
	for len(*l) > 0 && now.Sub((*l)[0]) > agentWindow {
		*l = (*l)[1:]
	}
	if len(*l) >= agentStarts {
		return false
	}
	*l = append(*l, now)
	return true
}

// supervise is the init of an image that has none: it does what a container's engine would have done,
// keeps the agent and the service, collects orphans, and powers off. It returns only if that failed.
//
//	agent: the process id of the agent that runs already, or 0.
func supervise(agent int) error {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, append([]os.Signal{syscall.SIGCHLD}, endSignals...)...)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_CAD_OFF) // Ctrl-Alt-Del is a signal from here on
	prepareSystem()
	s := &supervisor{agent: agent, service: readService()}
	network := make(chan struct{})
	go func() {
		startNetwork(s.service.network == "dhcp", func() { close(network) })
	}()
	patience := time.After(networkGrace)
	restart := make(<-chan time.Time)
	if agent == 0 && !s.startAgent() {
		restart = time.After(agentPause)
	}
	for {
		if s.collect() {
			restart = time.After(agentPause)
		}
		select {
		case number := <-signals:
			if number != syscall.SIGCHLD {
				return powerOff(number)
			}
		case <-restart:
			if !s.startAgent() {
				restart = time.After(agentPause)
			}
		case <-network:
			network, patience = nil, nil
			s.startService()
		case <-patience:
			network, patience = nil, nil
			milestone("the network is not waited for any longer")
			s.startService()
		}
	}
}

// readService returns what the image says, nothing to run where that is missing or damaged.
func readService() service {
	content, err := readRegular(serviceConfig, contentLimit)
	if err != nil {
		milestone("no service: " + err.Error())
		return service{}
	}
	s, err := decodeService(content)
	if err != nil {
		milestone("no service: " + serviceConfig + ": " + err.Error())
		return service{}
	}
	return s
}

// collect takes note of every child that has ended, orphans included. It says whether the agent is
// among them, and is to be started again.
func (s *supervisor) collect() (agentEnded bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil || pid == 0:
			return agentEnded
		case pid == s.agent:
			s.agent, agentEnded = 0, true
			milestone("the agent ended" + describe(status))
		case pid == s.running:
			s.running = 0
			milestone("the service ended" + describe(status))
		}
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return " by signal " + strconv.Itoa(int(status.Signal()))
	}
	return " with status " + strconv.Itoa(status.ExitStatus())
}

// startAgent starts the agent, unless that has been too often. It says whether there is no need to try
// again until this one ends.
func (s *supervisor) startAgent() bool {
	if !s.starts.take(time.Now()) {
		milestone("the agent is not started any more: it ends too often")
		return true
	}
	started, err := launchAgent()
	tell("the agent", err)
	started.release()
	s.agent = started.pid
	return s.agent != 0
}

func (s *supervisor) startService() {
	if len(s.service.arguments) == 0 {
		return
	}
	pid, err := s.service.start()
	if err != nil {
		milestone("the service is not started: " + err.Error())
		return
	}
	s.running = pid
	milestone("the service runs")
}

// prepareSystem does what a container's engine does before the first process: what fails is told, and
// missed by whoever needs it.
func prepareSystem() {
	const readOnly = 1 // ST_RDONLY, statfs(2)
	var root syscall.Statfs_t
	if syscall.Statfs("/", &root) == nil && root.Flags&readOnly != 0 {
		tell("remount the root file system", syscall.Mount("", "/", "", syscall.MS_REMOUNT, ""))
	}
	const tmpfs = 0x01021994 // its magic number, statfs(2)
	var run syscall.Statfs_t
	if syscall.Statfs("/run", &run) == nil && run.Type != tmpfs { // else it is the agent's start that mounted it
		tell("mount /run", syscall.Mount("tmpfs", "/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755"))
	}
	for _, filesystem := range []struct {
		kind, path string
		flags      uintptr
		options    string
	}{
		{"devpts", "/dev/pts", syscall.MS_NOSUID | syscall.MS_NOEXEC, "mode=620,gid=5,ptmxmode=666"},
		{"tmpfs", "/dev/shm", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=1777"},
		{"mqueue", "/dev/mqueue", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, ""},
		{"cgroup2", "/sys/fs/cgroup", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, ""},
	} {
		_ = os.Mkdir(filesystem.path, newDirectoryMode)
		tell("mount "+filesystem.path, syscall.Mount(
			filesystem.kind, filesystem.path, filesystem.kind, filesystem.flags, filesystem.options))
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2",
	} {
		_ = os.Symlink(target, link)
	}
	tell("set the host name", takeHostname())
}

func tell(what string, err error) {
	if err != nil {
		milestone(what + ": " + err.Error())
	}
}

// powerOff ends all processes and the machine. It returns only if that failed.
func powerOff(reason os.Signal) error {
	milestone("powering off: " + reason.String())
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for _, number := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		_ = syscall.Kill(-1, number)
		_ = syscall.Kill(-1, syscall.SIGCONT) // a stopped process ends as well
		waitForChildren(ended, time.After(endGrace))
	}
	syscall.Sync()
	tell("make the root file system read-only", syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	return os.NewSyscallError("reboot", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}

// waitForChildren collects children until there are none left, or it takes too long.
func waitForChildren(ended <-chan os.Signal, tooLong <-chan time.Time) {
	for collectAll() {
		select {
		case <-ended:
		case <-tooLong:
			return
		}
	}
}

// collectAll says whether there are children yet, having collected those that ended.
func collectAll() bool {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err != nil && err != syscall.EINTR {
			return false
		}
		if err == nil && pid == 0 {
			return true
		}
	}
}

// loadDriver loads a module from the running kernel's in the image or on their disk, and before it
// what it needs. It does without modprobe, which an image may not have.
func loadDriver(name string) error {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	directory := "/lib/modules/" + strings.TrimSpace(string(release))
	dependencies, err := readRegular(directory+"/modules.dep", contentLimit)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(dependencies)) {
		path, needed, found := strings.Cut(strings.TrimSpace(line), ":")
		file, _, _ := strings.Cut(filepath.Base(path), ".")
		if !found || strings.ReplaceAll(file, "-", "_") != name {
			continue
		}
		// What has to be loaded first stands last (modules.dep(5)).
		paths := append([]string{path}, strings.Fields(needed)...)
		for i := len(paths) - 1; i >= 0; i-- {
			if err := loadModule(filepath.Join(directory, paths[i])); err != nil {
				return err
			}
		}
		return nil
	}
	return nil // it is built in, or there is none
}
