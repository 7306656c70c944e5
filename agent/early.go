package main

import (
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	agentProgram = "/usr/local/bin/bouvet-agent"
	ownProgram   = "/proc/self/exe"
	defaultInit  = "/sbin/init"
	// replacedInit names, in an image whose defaultInit is this program, the one that it was before; the
	// build wrote it.
	replacedInit = "/etc/bouvet/init"
	// earlyOff, a word of the kernel's command line, leaves the agent's start to the machine's init.
	earlyOff = "bouvet.early=off"
	// earlyDeadline is how long the machine's init is held back for the agent, which has the processor
	// to itself meanwhile.
	earlyDeadline = time.Second
)

// What is inherited by an agent that was started with --inherit, and by its monitor: the listening socket,
// and the life line, a pipe that the agent writes and the monitor reads.
const (
	inheritedSocket   = 3
	inheritedLifeline = 4
)

// What an agent says on its life line. The end of the pipe without saidOver is a crash.
const (
	saidReady = '+' // it accepts connections
	saidOver  = '.' // it was succeeded, or asked to end
)

// bootRoot is for a kernel that has mounted the root file system and started this program as its init.
// It starts the agent and becomes the machine's own init. It returns only if that failed.
func bootRoot() error {
	if err := mountKernelFilesystems(); err != nil {
		milestone(err.Error())
	}
	milestone("started")
	return startInit(defaultInit)
}

// startInit starts the agent before the machine's init, as which PID 1 then goes on.
func startInit(init string) error {
	agent, err := startEarlyAgent()
	if err != nil {
		milestone("the agent is left to " + init + ": " + err.Error())
	}
	init = following(init)
	if suppliesInit(init) {
		agent.release()
		milestone("starting services: the image has no init")
		return supervise(agent.pid)
	}
	if agent.pid != 0 {
		tell("the agent has no monitor", startMonitor(agent))
	}
	milestone("starting " + init)
	err = syscall.Exec(init, append([]string{init}, os.Args[1:]...), os.Environ())
	return &os.PathError{Op: "start", Path: init, Err: err}
}

// following returns the init that PID 1 goes on as: where this program has an init's place in the image,
// the one that had it before, if there was one.
func following(init string) string {
	content, err := readRegular(replacedInit, contentLimit)
	if replaced := strings.TrimSpace(string(content)); err == nil && suppliesInit(init) && replaced != "" {
		return replaced
	}
	return init
}

// earlyAgent is an agent that was started with a listening socket.
type earlyAgent struct {
	pid       int // 0: none was
	listening int
	lifeline  *os.File // its reading end
}

// release leaves the agent to itself.
func (e earlyAgent) release() {
	if e.pid != 0 {
		syscall.Close(e.listening)
		e.lifeline.Close()
	}
}

// startEarlyAgent starts an agent if the image has one to succeed it, and it is not turned off. Its
// successor, a service of the machine's init, takes its socket over.
func startEarlyAgent() (earlyAgent, error) {
	words, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return earlyAgent{}, err
	}
	if slices.Contains(strings.Fields(string(words)), earlyOff) {
		return earlyAgent{}, nil
	}
	if err := syscall.Access(agentProgram, executable); err != nil {
		return earlyAgent{}, &os.PathError{Op: "find", Path: agentProgram, Err: err}
	}
	// With systemd's own options (src/shared/mount-setup.c): it does not mount another one over it,
	// and so /run keeps the socket by which the agent is succeeded.
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_STRICTATIME
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", flags, "mode=755,size=20%,nr_inodes=800k"); err != nil {
		return earlyAgent{}, &os.PathError{Op: "mount a tmpfs on", Path: "/run", Err: err}
	}
	mountTerminals()
	if err := takeHostname(); err != nil {
		milestone(err.Error())
	}
	return launchAgent()
}

// takeHostname gives the machine the image's name, which what runs before its init may ask for.
func takeHostname() error {
	name, err := readRegular(hostnameFile, contentLimit)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.NewSyscallError("sethostname", syscall.Sethostname([]byte(strings.TrimSpace(string(name)))))
}

// mountTerminals makes pseudo-terminals possible before systemd does, with its options (as above). What
// fails here is told by the first command that asks for a terminal.
func mountTerminals() {
	_ = os.Mkdir("/dev/pts", newDirectoryMode)
	_ = syscall.Mount("devpts", "/dev/pts", "devpts", syscall.MS_NOSUID|syscall.MS_NOEXEC, "mode=620,gid=5,ptmxmode=666")
}

// launchAgent starts an agent, whose socket listens before it runs. It waits until the agent accepts
// connections, but not for long.
func launchAgent() (earlyAgent, error) {
	loadVsock()
	listening, err := bindVsock(defaultPort)
	if err != nil {
		return earlyAgent{}, err
	}
	milestone("agent listening")
	pid, lifeline, err := forkAgent(listening)
	if err != nil {
		syscall.Close(listening)
		return earlyAgent{}, err
	}
	started := earlyAgent{pid, listening, lifeline}
	_ = lifeline.SetReadDeadline(time.Now().Add(earlyDeadline))
	switch _, err := lifeline.Read(make([]byte, 1)); err {
	case nil:
		milestone("agent started")
	case io.EOF:
		return started, errors.New("it ended before it accepted connections")
	default:
		milestone("agent not waited for: " + err.Error())
	}
	return started, nil
}

// forkAgent starts an agent that serves a listening socket.
func forkAgent(listening int, arguments ...string) (pid int, lifeline *os.File, err error) {
	lifeline, spoken, err := pipe()
	if err != nil {
		return 0, nil, err
	}
	pid, err = forkOwn(append([]string{"--inherit"}, arguments...), uintptr(listening), spoken.Fd())
	spoken.Close()
	if err != nil {
		lifeline.Close()
		return 0, nil, err
	}
	return pid, lifeline, nil
}

// forkOwn starts this same program as a process that the kernel never kills for memory. It is in memory
// already: the image's would have to be read from its disk.
func forkOwn(arguments []string, inherited ...uintptr) (int, error) {
	null, err := openAgain("/dev/null", syscall.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(null)
	// The score is inherited, by the process as intended and by the machine's init if it stayed.
	score, err := os.OpenFile(oomScorePath, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer score.Close()
	own, err := os.ReadFile(oomScorePath)
	if err != nil {
		return 0, err
	}
	_, _ = score.WriteString(oomNever)
	defer score.Write(own)
	files := append([]uintptr{uintptr(null), uintptr(syscall.Stdout), uintptr(syscall.Stderr)}, inherited...)
	pid, err := syscall.ForkExec(ownProgram, append([]string{agentProgram}, arguments...), &syscall.ProcAttr{
		Dir:   "/",
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, &os.PathError{Op: "start", Path: ownProgram, Err: err}
	}
	return pid, nil
}

// inherit takes what forkAgent has passed on: the listening socket, and an end of the life line.
func inherit(address string) (*listener, *os.File) {
	syscall.CloseOnExec(inheritedSocket)
	syscall.CloseOnExec(inheritedLifeline)
	// The kernel has named the process after ownProgram's last part.
	_ = os.WriteFile("/proc/self/comm", []byte(path.Base(agentProgram)), 0)
	return newListener(inheritedSocket, address), os.NewFile(inheritedLifeline, "life line")
}

// loadVsock loads the modules from the image where the kernel has no vsock device driver yet. What
// fails here is seen by binding, or is mended when the machine's init loads them.
func loadVsock() {
	const driver = "vmw_vsock_virtio_transport"
	if _, err := os.Stat("/sys/bus/virtio/drivers/" + driver); err == nil {
		return
	}
	const modprobe = "/sbin/modprobe"
	pid, err := syscall.ForkExec(modprobe, []string{modprobe, "-q", driver}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/sbin:/bin:/usr/sbin:/usr/bin"},
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		milestone("vsock is not loaded: " + err.Error())
		return
	}
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}
