package main

import (
	"os"
	"runtime"
	"syscall"
)

// idleConnections waits for the clients of all connections that nothing came from: one epoll instance
// (epoll(7)), and no goroutine for each, so that a thousand of them cost little memory.
type idleConnections struct {
	epoll int
	file  *os.File // the same, in the runtime's poller
}

func newIdleConnections() (*idleConnections, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(epoll, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &idleConnections{epoll, os.NewFile(uintptr(epoll), "epoll")}, nil
}

// add has a connection resumed as soon as something comes, once. It says no if that cannot be, and the
// connection has to end: the agent or the client is done with it, or the kernel has no memory for it.
func (i *idleConnections) add(c *connection) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.refused || c.broken {
		return false
	}
	operation := syscall.EPOLL_CTL_MOD
	if !c.known {
		operation = syscall.EPOLL_CTL_ADD
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | epollOneShot, Fd: int32(c.socket)}
	c.known = true
	c.waiting = syscall.EpollCtl(i.epoll, operation, c.socket, &event) == nil
	return c.waiting
}

// epollOneShot is EPOLLONESHOT: after an event, no further one until the descriptor is added again.
const epollOneShot = 1 << 30

// serve resumes connections of an agent as something comes.
func (i *idleConnections) serve(a *agent) {
	// Not many at once: those that are read need a stack and a buffer.
	var events [16]syscall.EpollEvent
	raw, err := i.file.SyscallConn()
	for err == nil {
		n := 0
		err = raw.Read(func(uintptr) bool {
			n, _ = syscall.EpollWait(i.epoll, events[:], 0)
			return n > 0
		})
		for _, event := range events[:max(n, 0)] {
			a.lock.Lock()
			c := a.connections[int(event.Fd)]
			a.lock.Unlock()
			if c != nil {
				c.resume()
			}
		}
		runtime.Gosched()
	}
}

// resume reads a connection on, if nobody does.
func (c *connection) resume() {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.waiting {
		c.waiting = false
		go c.receive()
	}
}
