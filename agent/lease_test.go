package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// dhcpServer answers a client on the loopback as a function says: with options, or not at all.
func dhcpServer(t *testing.T, answers func(kind byte, asked dhcpHeader) []byte) *dhcpClient {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	c := testClient()
	c.socket = os.NewFile(uintptr(fd), "client")
	c.servers = syscall.SockaddrInet4{Port: server.LocalAddr().(*net.UDPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveDHCP(server, c, answers)
	}()
	t.Cleanup(func() {
		c.close()
		server.Close()
		<-done
	})
	return c
}

func serveDHCP(server *net.UDPConn, c *dhcpClient, answers func(kind byte, asked dhcpHeader) []byte) {
	message := make([]byte, 2048)
	for {
		n, from, err := server.ReadFromUDP(message)
		if err != nil {
			return
		}
		var asked dhcpHeader
		copy((*[dhcpHeaderSize]byte)(unsafe.Pointer(&asked))[:], message[:n])
		var options lease
		_ = options.readOptions(message[dhcpHeaderSize:n])
		if said := answers(options.kind, asked); said != nil {
			_, _ = server.WriteToUDP(answer(c, said...), from)
		}
	}
}

func TestALeaseIsAcquiredFromAnOffer(t *testing.T) {
	kinds := make(chan byte, 100)
	c := dhcpServer(t, func(kind byte, asked dhcpHeader) []byte {
		kinds <- kind
		switch {
		case kind == dhcpDiscover:
			return []byte{optionKind, 1, dhcpOffer, optionServer, 4, 10, 0, 2, 2, optionEnd}
		case len(kinds) == 2: // refused once: it begins anew
			return []byte{optionKind, 1, dhcpNak, optionEnd}
		}
		return []byte{optionKind, 1, dhcpAck, optionDuration, 4, 0, 0, 0, 60, optionEnd}
	})
	given, err := c.acquire()
	if err != nil || given.address.String() != "10.0.2.15" || given.duration != time.Minute {
		t.Errorf("%+v, %v", given, err)
	}
	for i, wanted := range []byte{dhcpDiscover, dhcpRequest, dhcpDiscover, dhcpRequest} {
		if kind := <-kinds; kind != wanted {
			t.Errorf("message %d is %d, not %d", i, kind, wanted)
		}
	}
}

func TestALeaseIsRenewedAtTheAddressThatItHas(t *testing.T) {
	var asked atomic.Int32
	c := dhcpServer(t, func(kind byte, message dhcpHeader) []byte {
		if kind != dhcpRequest || message.client != (ipv4{10, 0, 2, 15}) {
			t.Errorf("%d by %s", kind, message.client)
		}
		if asked.Add(1) == 1 { // it is silent once, and asked again
			return nil
		}
		return []byte{optionKind, 1, dhcpAck, optionDuration, 4, 0, 0, 0, 120, optionEnd}
	})
	renewed, err := c.renew(lease{address: ipv4{10, 0, 2, 15}, duration: time.Minute})
	if err != nil || renewed.duration != 2*time.Minute || asked.Load() != 2 {
		t.Errorf("%+v, %v", renewed, err)
	}
}

func TestARefusedOrUnansweredRenewalEndsTheLease(t *testing.T) {
	for wanted, said := range map[error][]byte{
		errRefused:             {optionKind, 1, dhcpNak, optionEnd},
		os.ErrDeadlineExceeded: nil,
	} {
		c := dhcpServer(t, func(byte, dhcpHeader) []byte { return said })
		if _, err := c.renew(lease{address: ipv4{10, 0, 2, 15}, duration: time.Millisecond}); !errors.Is(err, wanted) {
			t.Errorf("%v, not %v", err, wanted)
		}
	}
}

func TestAHeldLeaseIsRenewedAndGivenUpForAnother(t *testing.T) {
	renewals := make(chan struct{})
	c := dhcpServer(t, func(byte, dhcpHeader) []byte {
		renewals <- struct{}{}
		return []byte{optionKind, 1, dhcpAck, optionEnd} // for ever
	})
	k := &leaseKeeper{asked: make(chan chan<- error)}
	ended := make(chan chan<- error)
	go func() { ended <- k.hold(c, lease{address: ipv4{10, 0, 2, 15}, duration: 2 * time.Millisecond}) }()
	<-renewals
	asker := make(chan error, 1)
	k.asked <- asker
	if by := <-ended; by != (chan<- error)(asker) {
		t.Error("it was not given up for who asked")
	}
}

func TestNameServersAreTheLeasesUnlessTheImageNamesSome(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.Symlink("/nonexistent/resolv.conf", path); err != nil {
		t.Fatal(err)
	}
	write := func(l lease, own string) string {
		t.Helper()
		written, err := writeResolvConf(path, l, own)
		if err != nil {
			t.Fatal(err)
		}
		return written
	}
	first := write(lease{servers: []ipv4{{10, 0, 2, 3}}, domain: "a.bc"}, "")
	if first != "search a.bc\nnameserver 10.0.2.3\n" {
		t.Errorf("%q", first)
	}
	second := write(lease{servers: []ipv4{{10, 9, 9, 9}, {1, 1, 1, 1}}}, first)
	if content, err := os.ReadFile(path); err != nil || string(content) != second || strings.Contains(second, "10.0.2.3") {
		t.Errorf("%q, %v", content, err)
	}
	// Somebody else's stay, and so do all where a lease names none.
	if again := write(lease{servers: []ipv4{{10, 0, 2, 3}}}, first); again != "" {
		t.Errorf("%q", again)
	}
	if none := write(lease{}, second); none != "" {
		t.Errorf("%q", none)
	}
}
