package main

import (
	"os"
	"syscall"
	"unsafe"
)

// Requests of ioctl_tty(2), the same on all architectures that the agent is built for.
const (
	ioctlUnlockTerminal = 0x40045431 // TIOCSPTLCK
	ioctlOpenPeer       = 0x5441     // TIOCGPTPEER
	ioctlSetWindow      = 0x5414     // TIOCSWINSZ
)

// endOfInput is what a terminal takes as its end, at the beginning of a line: Ctrl-D.
const endOfInput = 0x04

// windowSize is struct winsize of ioctl_tty(2).
type windowSize struct{ rows, columns, width, height uint16 }

// openTerminal returns a new pseudoterminal: the end that the agent has, which waits in the runtime's
// poller, and the one for a process.
func openTerminal(rows, columns int64) (agentEnd, processEnd *os.File, err error) {
	fd, err := openAgain("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	fail := func(failure syscall.Errno) (*os.File, *os.File, error) {
		syscall.Close(fd)
		return nil, nil, os.NewSyscallError("make a terminal", failure)
	}
	locked := int32(0)
	if _, _, failure := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), ioctlUnlockTerminal, uintptr(unsafe.Pointer(&locked))); failure != 0 {
		return fail(failure)
	}
	const flags = syscall.O_RDWR | syscall.O_NOCTTY | syscall.O_CLOEXEC
	peer, _, failure := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), ioctlOpenPeer, flags)
	if failure != 0 {
		return fail(failure)
	}
	agentEnd, processEnd = os.NewFile(uintptr(fd), "terminal"), os.NewFile(peer, "terminal")
	if err := resizeTerminal(agentEnd, rows, columns); err != nil {
		agentEnd.Close()
		processEnd.Close()
		return nil, nil, err
	}
	return agentEnd, processEnd, nil
}

// resizeTerminal sets the window's size; the kernel tells the terminal's foreground processes.
func resizeTerminal(terminal *os.File, rows, columns int64) error {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	size := windowSize{rows: uint16(rows), columns: uint16(columns)}
	var failure syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, failure = syscall.Syscall(syscall.SYS_IOCTL, fd, ioctlSetWindow, uintptr(unsafe.Pointer(&size)))
	})
	if err == nil && failure != 0 {
		err = os.NewSyscallError("resize the terminal", failure)
	}
	return err
}
