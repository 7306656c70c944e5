package main

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// children starts processes and collects every child that ends: those it started, whose status goes
// to who waits for it, and orphans that the kernel handed to this process (it is PID 1, or a child
// subreaper), whose status nobody wants. One collector means that none can steal another's status.
type children struct {
	// The lock is held while a process is started and while ended ones are collected: a child that
	// ends at once is registered before it is collected, and a registered pid is never reused.
	lock    sync.Mutex
	running map[int]*child
	ending  bool
	score   oomScore
	threads chan struct{} // closed when the program has its reserve of threads
}

// child is a process that was started here. It leads a session, and so a process group, of its own.
type child struct {
	pid    int
	ended  chan struct{}
	status syscall.WaitStatus // to be read after ended is closed
}

var errEnding = errors.New("the agent is ending")

// newChildren makes this process adopt the orphans among its descendants, and starts to collect.
func newChildren() *children {
	c := &children{running: map[int]*child{}, score: openOOMScore(), threads: make(chan struct{})}
	const setChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER, prctl(2)
	_, _, _ = syscall.RawSyscall6(syscall.SYS_PRCTL, setChildSubreaper, 1, 0, 0, 0, 0)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			c.collect()
		}
	}()
	return c
}

func (c *children) collect() {
	c.lock.Lock()
	defer c.lock.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid == 0 {
			return
		}
		if known := c.running[pid]; known != nil {
			delete(c.running, pid)
			known.status = status
			close(known.ended)
		}
	}
}

// launch is a program to be started.
type launch struct {
	program     string
	argv        []string
	environment []string
	directory   string
	streams     [3]*os.File
	credential  *syscall.Credential // nil: the agent's own
	group       *cgroup             // nil: the agent's own
	terminal    bool                // the streams are a terminal that shall be its controlling one
}

// start runs a program. What it leaves of the machine's processes is not to be short of the program's own
// threads: they come first. QEMU's user emulation also needs it so: its fork while another thread is being
// made copies a lock that is held, and a child that cannot execute its program then waits for it for ever.
func (c *children) start(l launch) (*child, error) {
	<-c.threads
	attributes := &syscall.ProcAttr{
		Dir:   l.directory,
		Env:   l.environment,
		Files: []uintptr{l.streams[0].Fd(), l.streams[1].Fd(), l.streams[2].Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: l.terminal, Credential: l.credential},
	}
	if l.group != nil {
		attributes.Sys.UseCgroupFD, attributes.Sys.CgroupFD = true, l.group.descriptor
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.ending {
		return nil, errEnding
	}
	pid, err := c.score.without(func() (int, error) { return syscall.ForkExec(l.program, l.argv, attributes) })
	if err != nil {
		return nil, err
	}
	started := &child{pid: pid, ended: make(chan struct{})}
	c.running[pid] = started
	return started, nil
}

// signal sends a signal to a child's process group while the child runs, and says whether it does.
func (c *children) signal(known *child, number syscall.Signal) error {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.running[known.pid] != known {
		return syscall.ESRCH
	}
	return syscall.Kill(-known.pid, number)
}

// end sends a signal to the process group of each child that was started here and still runs. No
// further one is started.
func (c *children) end(number syscall.Signal) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.ending = true
	for pid := range c.running {
		_ = syscall.Kill(-pid, number)
	}
}

// endedBy returns the name of the signal that ended the process, "" if none did.
func (c *child) endedBy() string {
	if !c.status.Signaled() {
		return ""
	}
	return signalName(c.status.Signal())
}

// exitCode is the status as a shell gives it: the exit status, or 128 plus the number of the signal
// that ended the process.
func (c *child) exitCode() int {
	if c.status.Signaled() {
		return 128 + int(c.status.Signal())
	}
	return c.status.ExitStatus()
}
