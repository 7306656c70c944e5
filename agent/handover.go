package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// defaultHandover is where the machine's agent hands its listening socket over to its successor:
	// the one that was started before the machine's init to the one that init starts as a service.
	defaultHandover = "/run/bouvet/agent.sock"
	// handoverDeadline is how long each side waits for the other, which is on the same machine.
	handoverDeadline = 5 * time.Second
	// addressLimit is the most bytes of an address that are compared.
	addressLimit = 256
)

// handoverMark is the whole text of the second and the third message of a handover. The first is the
// successor's: its address. The second is the predecessor's, and carries the listening socket. With the
// third the successor accepts connections, and the predecessor does no more.
//
// Both have the same socket open meanwhile, so that no connection is refused; if either dies before the
// third message, the other has it for good.
var handoverMark = []byte{'+'}

// predecessor is an agent that has handed its listening socket over, until it is told to stop accepting.
type predecessor struct{ file *os.File }

// takeOver gets the listening socket of the agent that offers it at a path, if its address is the same.
func takeOver(path, address string) (*listener, *predecessor, error) {
	file, err := connectPacket(path)
	if err != nil {
		return nil, nil, err
	}
	peer := &predecessor{file}
	listening, err := peer.ask(address)
	if err != nil {
		peer.file.Close()
		return nil, nil, err
	}
	return newListener(listening, address), peer, nil
}

// connectPacket connects to a Unix socket of type SOCK_SEQPACKET.
func connectPacket(path string) (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		syscall.Close(fd)
		return nil, &os.PathError{Op: "connect to", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (p *predecessor) ask(address string) (int, error) {
	if err := checkPeer(p.file); err != nil {
		return -1, err
	}
	_ = p.file.SetDeadline(time.Now().Add(handoverDeadline))
	if _, err := p.file.WriteString(address); err != nil {
		return -1, err
	}
	return receiveDescriptor(p.file)
}

// stopAccepting ends the handover. A predecessor that has died meanwhile accepts nothing either.
func (p *predecessor) stopAccepting() {
	_, _ = p.file.Write(handoverMark)
	p.file.Close()
}

// offerSocket opens the place where a successor may ask for the listening socket. It replaces a
// predecessor's at the same path.
func offerSocket(path string) (*listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	fresh := path + ".new"
	l, err := listenUnix(fresh, syscall.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(fresh, path); err != nil {
		l.close()
		return nil, err
	}
	l.path = path
	return l, nil
}

// offer hands the listening socket over to the first successor that asks for it and lives. It returns
// false if the place was closed before.
func offer(place, listening *listener, address string) bool {
	for {
		socket, err := place.accept()
		if err != nil {
			return false
		}
		file := os.NewFile(uintptr(socket), "successor")
		err = handOver(file, listening, address)
		file.Close()
		if err == nil {
			return true
		}
		report("the socket was not handed over: " + err.Error())
	}
}

func handOver(successor *os.File, listening *listener, address string) error {
	if err := checkPeer(successor); err != nil {
		return err
	}
	_ = successor.SetDeadline(time.Now().Add(handoverDeadline))
	var message [addressLimit]byte
	n, err := successor.Read(message[:])
	if err != nil {
		return err
	}
	if string(message[:n]) != address {
		return errors.New("the address is not " + address)
	}
	if err := sendDescriptor(successor, listening.file); err != nil {
		return err
	}
	_, err = successor.Read(message[:])
	return err
}

var errStranger = errors.New("the other process is of another user")

// checkPeer makes sure that the process at a Unix socket's other end is of this one's user: the
// listening socket receives commands for this user.
func checkPeer(file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var peer *syscall.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) {
		peer, failure = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil {
		return err
	}
	if failure != nil {
		return os.NewSyscallError("getsockopt", failure)
	}
	if int(peer.Uid) != syscall.Getuid() {
		return errStranger
	}
	return nil
}

func sendDescriptor(to, file *os.File) error {
	channel, err := to.SyscallConn()
	if err != nil {
		return err
	}
	sent, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = sent.Control(func(fd uintptr) {
		rights := syscall.UnixRights(int(fd))
		failure = channel.Write(func(socket uintptr) bool {
			err = syscall.Sendmsg(int(socket), handoverMark, rights, nil, syscall.MSG_NOSIGNAL)
			return err != syscall.EAGAIN
		})
	})
	return os.NewSyscallError("sendmsg", errors.Join(failure, err))
}

func receiveDescriptor(from *os.File) (int, error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return -1, err
	}
	var mark [1]byte
	control := make([]byte, syscall.CmsgSpace(4)) // one descriptor, an int
	var n, length int
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		n, length, _, _, failure = syscall.Recvmsg(int(fd), mark[:], control, syscall.MSG_CMSG_CLOEXEC)
		return failure != syscall.EAGAIN
	})
	if err = errors.Join(err, failure); err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	messages, err := syscall.ParseSocketControlMessage(control[:length])
	if err != nil || n == 0 || len(messages) != 1 {
		return -1, errors.New("the other agent has not handed its socket over")
	}
	rights, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(rights) != 1 {
		return -1, errors.New("the other agent has handed over something else")
	}
	return rights[0], nil
}
