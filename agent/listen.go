package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	defaultAddress = "vsock:52"
	defaultPort    = 52
	// connectionLimit is how many connections are served at once; one more is closed at once.
	connectionLimit = 4096
	// listenBacklog is how many connections the kernel holds until they are accepted.
	listenBacklog = 1024
)

// The numbers of vsock(7) that the standard library does not have.
const (
	afVsock      = 40
	vsockAnyCID  = 0xffffffff
	vsockHostCID = 2
)

// How long to wait before something is tried again that nothing announces.
const (
	retryMin = 10 * time.Millisecond
	retryMax = time.Second
)

// sockaddrVM is struct sockaddr_vm of <linux/vm_sockets.h>.
type sockaddrVM struct {
	family   uint16
	reserved uint16
	port     uint32
	cid      uint32
	flags    uint8
	zero     [3]uint8
}

const _ = -(unsafe.Sizeof(sockaddrVM{}) ^ 16) // its size; anything else does not compile

// listener accepts connections without the net package, which knows no vsock.
type listener struct {
	file  *os.File
	vsock bool
	path  string // of a Unix socket
}

// listen binds an address: unix:PATH or vsock:PORT. While the kernel has no vsock yet, since its module
// is still to be loaded, it tries again; report is told once.
func listen(address string, report func(string)) (*listener, error) {
	kind, rest, _ := strings.Cut(address, ":")
	switch kind {
	case "unix":
		return listenUnix(rest, syscall.SOCK_STREAM)
	case "vsock":
		port, err := strconv.ParseUint(rest, 10, 32)
		if err != nil {
			return nil, errors.New("not a vsock port: " + rest)
		}
		for wait := retryMin; ; wait = min(2*wait, retryMax) {
			fd, err := bindVsock(uint32(port))
			if err == nil {
				return newListener(fd, address), nil
			}
			if !errors.Is(err, syscall.EAFNOSUPPORT) {
				return nil, err
			}
			if wait == retryMin {
				report("the kernel has no vsock yet; trying again")
			}
			time.Sleep(wait)
		}
	}
	return nil, errors.New("not an address: " + address + " (unix:PATH or vsock:PORT)")
}

// newListener returns the listener of a socket that listens on an address already, and does not block.
func newListener(fd int, address string) *listener {
	path, unix := strings.CutPrefix(address, "unix:")
	l := &listener{file: os.NewFile(uintptr(fd), address), vsock: !unix}
	if unix {
		l.path = path
	}
	return l
}

// listenUnix binds a socket of a kind, SOCK_STREAM or SOCK_SEQPACKET.
func listenUnix(path string, kind int) (*listener, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, kind|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	address := &syscall.SockaddrUnix{Name: path}
	switch syscall.Connect(fd, address) {
	case nil:
		syscall.Close(fd)
		return nil, &os.PathError{Op: "listen on", Path: path, Err: syscall.EADDRINUSE}
	case syscall.ECONNREFUSED:
		// Nobody listens: another agent left it behind.
		_ = syscall.Unlink(path)
	}
	previous := syscall.Umask(0o177)
	err = syscall.Bind(fd, address)
	syscall.Umask(previous)
	if err == nil {
		err = syscall.Listen(fd, listenBacklog)
	}
	if err != nil {
		syscall.Close(fd)
		return nil, &os.PathError{Op: "listen on", Path: path, Err: err}
	}
	return newListener(fd, "unix:"+path), nil
}

func bindVsock(port uint32) (int, error) {
	fd, err := syscall.Socket(afVsock, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	address := sockaddrVM{family: afVsock, port: port, cid: vsockAnyCID}
	_, _, number := syscall.RawSyscall(
		syscall.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&address)), unsafe.Sizeof(address))
	if number == 0 {
		if err := syscall.Listen(fd, listenBacklog); err != nil {
			number = err.(syscall.Errno)
		}
	}
	if number != 0 {
		syscall.Close(fd)
		return -1, os.NewSyscallError("listen on vsock port "+strconv.FormatUint(uint64(port), 10), number)
	}
	return fd, nil
}

// accept waits for the next connection, and returns its socket, which does not block. It fails for good
// only when the listener was closed.
func (l *listener) accept() (int, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return -1, err
	}
	for {
		var fd uintptr
		var number syscall.Errno
		var peer sockaddrVM
		err := raw.Read(func(listening uintptr) bool {
			// syscall.Accept4 refuses addresses that it does not know. A Unix peer's is cut to the size.
			size := uint32(unsafe.Sizeof(peer))
			fd, _, number = syscall.Syscall6(syscall.SYS_ACCEPT4, listening, uintptr(unsafe.Pointer(&peer)),
				uintptr(unsafe.Pointer(&size)), syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0, 0)
			return number != syscall.EAGAIN
		})
		switch {
		case err != nil:
			return -1, err
		case number == syscall.EMFILE || number == syscall.ENFILE || number == syscall.ENOMEM || number == syscall.ENOBUFS:
			// Nothing tells when there is room again.
			time.Sleep(retryMin)
		case number != 0: // the peer was gone before it was accepted, or a signal came
		case l.vsock && peer.cid != vsockHostCID:
			// Another guest, or a process in this one by way of the loopback: neither may command root.
			syscall.Close(int(fd))
		default:
			return int(fd), nil
		}
	}
}

// close ends the listening.
func (l *listener) close() {
	l.release()
	if l.path != "" {
		_ = syscall.Unlink(l.path)
	}
}

// release leaves the listening to another process that has the same socket, or the same path.
func (l *listener) release() {
	l.file.Close()
}
