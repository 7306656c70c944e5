package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// A DHCP client: RFC 2131, and RFC 2132 for the options. It asks for answers by broadcast, so that an
// ordinary socket gets them while the card has no address.

const (
	serverPort = 67
	clientPort = 68
	// retransmission doubles from the first to the last (RFC 2131, section 4.1, which begins at 4 s; the
	// server of a virtual machine is near).
	firstRetransmission = time.Second
	lastRetransmission  = 64 * time.Second
	// forever is the duration of a lease that does not end.
	forever = time.Duration(-1)
	// shortestLease bounds how often a server can make this client renew.
	shortestLease = 10 * time.Second
)

// The values of option 53, the kind of a message.
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
	dhcpNak      = 6
)

// The options that are used.
const (
	optionPad        = 0
	optionNetmask    = 1
	optionRouter     = 3
	optionServers    = 6
	optionDomain     = 15
	optionRequested  = 50
	optionDuration   = 51
	optionKind       = 53
	optionServer     = 54
	optionParameters = 55
	optionEnd        = 255
)

// dhcpHeader is a message without its options: RFC 2131, section 2. All numbers are big-endian.
type dhcpHeader struct {
	op, hardware, hardwareLength, hops byte
	transaction                        [4]byte
	seconds, flags                     [2]byte
	client, yours, server, relay       ipv4
	hardwareAddress                    [16]byte
	serverName                         [64]byte
	file                               [128]byte
	magic                              [4]byte // RFC 1497: options follow
}

const dhcpHeaderSize = 240

const _ = -(unsafe.Sizeof(dhcpHeader{}) ^ dhcpHeaderSize)

var dhcpMagic = [4]byte{99, 130, 83, 99}

// lease is what a server gave.
type lease struct {
	kind            byte
	address         ipv4
	netmask, router ipv4
	server          ipv4 // which server it was
	servers         []ipv4
	domain          string
	duration        time.Duration
}

type dhcpClient struct {
	socket      *os.File
	mac         [6]byte
	transaction [4]byte
	servers     syscall.SockaddrInet4 // where all of them hear it
}

func newDHCPClient(name string, mac [6]byte) (*dhcpClient, error) {
	const flags = syscall.SOCK_DGRAM | syscall.SOCK_CLOEXEC | syscall.SOCK_NONBLOCK
	fd, err := syscall.Socket(syscall.AF_INET, flags, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = syscall.SetsockoptString(fd, syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, name)
	if err == nil {
		err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1)
	}
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: clientPort})
	}
	if err != nil {
		syscall.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	client := &dhcpClient{socket: os.NewFile(uintptr(fd), "DHCP"), mac: mac,
		servers: syscall.SockaddrInet4{Port: serverPort, Addr: [4]byte{255, 255, 255, 255}}}
	_, _ = rand.Read(client.transaction[:])
	return client, nil
}

func (c *dhcpClient) close() { c.socket.Close() }

// acquire asks until a server has given an address.
func (c *dhcpClient) acquire() (lease, error) {
	for pause := firstRetransmission; ; pause = min(2*pause, lastRetransmission) {
		offer, err := c.exchange(c.message(dhcpDiscover, ipv4{}, nil), pause, dhcpOffer)
		if err == nil {
			options := append([]byte{optionRequested, 4}, offer.address[:]...)
			options = append(append(options, optionServer, 4), offer.server[:]...)
			offer, err = c.exchange(c.message(dhcpRequest, ipv4{}, options), pause, dhcpAck)
		}
		if err == nil {
			return offer, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errRefused) {
			return lease{}, err
		}
	}
}

// renew asks for an address again until its time, of which half is gone, is over.
func (c *dhcpClient) renew(current lease) (lease, error) {
	end := time.Now().Add(current.duration / 2)
	for pause := firstRetransmission; ; pause = min(2*pause, lastRetransmission) {
		renewed, err := c.exchange(c.message(dhcpRequest, current.address, nil), pause, dhcpAck)
		if err == nil || errors.Is(err, errRefused) || time.Now().After(end) {
			return renewed, err
		}
	}
}

var errRefused = errors.New("the server refused the address")

// exchange sends a message and waits for the answer of a kind.
func (c *dhcpClient) exchange(message []byte, patience time.Duration, kind byte) (lease, error) {
	deadline := time.Now().Add(patience)
	if err := c.socket.SetReadDeadline(deadline); err != nil {
		return lease{}, err
	}
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return lease{}, err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		failure = syscall.Sendto(int(fd), message, 0, &c.servers)
		return failure != syscall.EAGAIN
	})
	if err := errors.Join(err, failure); err != nil {
		return lease{}, os.NewSyscallError("sendto", err)
	}
	buffer := make([]byte, 2048)
	for {
		n, err := c.socket.Read(buffer)
		if err != nil {
			return lease{}, err
		}
		answer, err := c.parse(buffer[:n])
		switch {
		case err != nil: // somebody else's, or damaged
		case answer.kind == kind:
			return answer, nil
		case answer.kind == dhcpNak && kind == dhcpAck:
			return lease{}, errRefused
		}
	}
}

// message returns a request. client is this machine's address if it has one.
func (c *dhcpClient) message(kind byte, client ipv4, options []byte) []byte {
	const request, ethernet, broadcast = 1, 1, 0x80
	header := dhcpHeader{op: request, hardware: ethernet, hardwareLength: byte(len(c.mac)),
		transaction: c.transaction, flags: [2]byte{broadcast, 0}, client: client, magic: dhcpMagic}
	copy(header.hardwareAddress[:], c.mac[:])
	message := append([]byte(nil), (*[dhcpHeaderSize]byte)(unsafe.Pointer(&header))[:]...)
	message = append(message, optionKind, 1, kind)
	message = append(message, optionParameters, 4, optionNetmask, optionRouter, optionServers, optionDomain)
	message = append(message, options...)
	message = append(message, optionEnd)
	const shortest = 300 // RFC 1542, section 2.1
	return append(message, make([]byte, max(0, shortest-len(message)))...)
}

var errNotForUs = errors.New("not an answer to this client")

// parse reads an answer. It may be anybody's: what is wrong with it is an error.
func (c *dhcpClient) parse(message []byte) (lease, error) {
	const reply = 2
	if len(message) < dhcpHeaderSize {
		return lease{}, errNotForUs
	}
	var header dhcpHeader
	copy((*[dhcpHeaderSize]byte)(unsafe.Pointer(&header))[:], message)
	if header.op != reply || header.transaction != c.transaction || header.magic != dhcpMagic ||
		[6]byte(header.hardwareAddress[:6]) != c.mac {
		return lease{}, errNotForUs
	}
	l := lease{address: header.yours, duration: forever}
	if err := l.readOptions(message[dhcpHeaderSize:]); err != nil {
		return lease{}, err
	}
	if l.kind != dhcpNak && !isHostAddress(l.address) {
		return lease{}, errNotForUs
	}
	if l.netmask == (ipv4{}) {
		l.netmask = ipv4{255, 255, 255, 0}
	}
	return l, nil
}

var errShortOption = errors.New("an option is cut short")

func (l *lease) readOptions(options []byte) error {
	for len(options) > 0 && options[0] != optionEnd {
		if options[0] == optionPad {
			options = options[1:]
			continue
		}
		if len(options) < 2 || len(options) < 2+int(options[1]) {
			return errShortOption
		}
		code, value := options[0], options[2:2+int(options[1])]
		options = options[2+len(value):]
		if err := l.readOption(code, value); err != nil {
			return err
		}
	}
	return nil
}

func (l *lease) readOption(code byte, value []byte) error {
	switch code {
	case optionKind:
		if len(value) != 1 {
			return errShortOption
		}
		l.kind = value[0]
	case optionNetmask, optionRouter, optionServer, optionServers:
		if len(value) < 4 {
			return errShortOption
		}
		first := ipv4(value)
		switch code {
		case optionNetmask:
			l.netmask = first
		case optionRouter:
			l.router = first
		case optionServer:
			l.server = first
		}
		for ; code == optionServers && len(value) >= 4; value = value[4:] {
			l.servers = append(l.servers, ipv4(value))
		}
	case optionDomain:
		l.domain = cleanDomain(string(value))
	case optionDuration:
		if len(value) != 4 {
			return errShortOption
		}
		if seconds := binary.BigEndian.Uint32(value); seconds != 1<<32-1 {
			l.duration = max(time.Duration(seconds)*time.Second, shortestLease)
		}
	}
	return nil
}

// cleanDomain returns a domain that may stand in a line of resolv.conf, or nothing.
func cleanDomain(domain string) string {
	domain = strings.TrimRight(domain, "\x00")
	for _, c := range domain {
		if !(c == '.' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return ""
		}
	}
	return domain
}

// isHostAddress says whether an address can be a machine's: none of this network, loopback, multicast
// and above.
func isHostAddress(a ipv4) bool {
	return a[0] != 0 && a[0] != 127 && a[0] < 224
}

func (a ipv4) String() string {
	text := ""
	for i, part := range a {
		if i > 0 {
			text += "."
		}
		text += strconv.Itoa(int(part))
	}
	return text
}

func parseMAC(text string) (mac [6]byte, err error) {
	content, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(content) != len(mac) {
		return mac, errors.New("not a hardware address: " + text)
	}
	return [6]byte(content), nil
}
