package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"
)

func testClient() *dhcpClient {
	return &dhcpClient{mac: [6]byte{0x52, 0x54, 0, 1, 2, 3}, transaction: [4]byte{9, 8, 7, 6}}
}

// answer returns what a server would send.
func answer(c *dhcpClient, options ...byte) []byte {
	header := dhcpHeader{op: 2, transaction: c.transaction, yours: ipv4{10, 0, 2, 15}, magic: dhcpMagic}
	copy(header.hardwareAddress[:], c.mac[:])
	return append((*[dhcpHeaderSize]byte)(unsafe.Pointer(&header))[:], options...)
}

var wholeOffer = []byte{
	optionPad, optionKind, 1, dhcpOffer, optionNetmask, 4, 255, 255, 0, 0, optionRouter, 4, 10, 0, 2, 2,
	optionServers, 8, 10, 0, 2, 3, 1, 1, 1, 1, optionServer, 4, 10, 0, 2, 2, optionDuration, 4, 0, 1, 0x51, 0x80,
	optionDomain, 5, 'a', '.', 'b', 'c', 0, 200, 2, 0, 0, optionEnd, 1, 2, 3,
}

func TestOffer(t *testing.T) {
	c := testClient()
	l, err := c.parse(answer(c, wholeOffer...))
	if err != nil {
		t.Fatal(err)
	}
	if l.kind != dhcpOffer || l.address.String() != "10.0.2.15" || l.netmask != (ipv4{255, 255, 0, 0}) ||
		l.router != (ipv4{10, 0, 2, 2}) || l.server != (ipv4{10, 0, 2, 2}) || l.duration != 24*time.Hour ||
		l.domain != "a.bc" || !slices.Equal(l.servers, []ipv4{{10, 0, 2, 3}, {1, 1, 1, 1}}) {
		t.Errorf("%+v", l)
	}
}

func TestLeaseDurations(t *testing.T) {
	c := testClient()
	for _, test := range []struct {
		seconds [4]byte
		want    time.Duration
	}{
		{[4]byte{255, 255, 255, 255}, forever}, {[4]byte{}, shortestLease}, {[4]byte{0, 0, 0, 60}, time.Minute},
		{[4]byte{255, 255, 255, 254}, (1<<32 - 2) * time.Second},
	} {
		options := append([]byte{optionKind, 1, dhcpAck, optionDuration, 4}, test.seconds[:]...)
		if l, err := c.parse(answer(c, options...)); err != nil || l.duration != test.want {
			t.Errorf("%v: %v, %v", test.seconds, l.duration, err)
		}
	}
}

func TestHostileAnswers(t *testing.T) {
	c := testClient()
	other := &dhcpClient{mac: c.mac, transaction: [4]byte{1}}
	neighbour := &dhcpClient{transaction: c.transaction}
	address := func(a ipv4) []byte {
		message := answer(c, wholeOffer...)
		copy(message[16:], a[:])
		return message
	}
	for name, message := range map[string][]byte{
		"empty":               {},
		"short":               answer(c)[:239],
		"other transaction":   answer(other, wholeOffer...),
		"other card":          answer(neighbour, wholeOffer...),
		"option without size": answer(c, optionKind),
		"option cut short":    answer(c, optionDomain, 200, 'x'),
		"kind without value":  answer(c, optionKind, 0),
		"short netmask":       answer(c, optionKind, 1, dhcpOffer, optionNetmask, 3, 1, 2, 3),
		"short duration":      answer(c, optionKind, 1, dhcpOffer, optionDuration, 2, 1, 2),
		"no address":          address(ipv4{}),
		"loopback":            address(ipv4{127, 0, 0, 1}),
		"multicast":           address(ipv4{224, 0, 0, 1}),
		"broadcast":           address(ipv4{255, 255, 255, 255}),
	} {
		if l, err := c.parse(message); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if cleanDomain("a\nnameserver 6.6.6.6") != "" {
		t.Error("a domain brings a line of its own")
	}
}

func TestNoiseInAnswers(t *testing.T) {
	c := testClient()
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		message := answer(c, wholeOffer...)
		for range 1 + random.IntN(4) {
			message[random.IntN(len(message))] = byte(random.Uint32())
		}
		message = message[:len(message)-random.IntN(60)]
		if l, err := c.parse(message); err == nil && l.kind != dhcpNak && !isHostAddress(l.address) {
			t.Fatalf("%v gives %+v", message, l)
		}
	}
}

func TestRequest(t *testing.T) {
	c := testClient()
	message := c.message(dhcpRequest, ipv4{10, 0, 0, 1}, []byte{optionRequested, 4, 10, 0, 0, 9})
	if len(message) < 300 || message[0] != 1 || message[10] != 0x80 {
		t.Errorf("%v", message)
	}
	if !slices.Equal(message[12:16], []byte{10, 0, 0, 1}) || !slices.Equal(message[28:34], c.mac[:]) {
		t.Errorf("%v", message[:40])
	}
	want := []byte{optionKind, 1, dhcpRequest}
	if !slices.Equal(message[dhcpHeaderSize:dhcpHeaderSize+3], want) {
		t.Errorf("%v", message[dhcpHeaderSize:])
	}
}

func TestMAC(t *testing.T) {
	if mac, err := parseMAC("52:54:00:12:34:56"); err != nil || mac != [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56} {
		t.Errorf("%v, %v", mac, err)
	}
	for _, wrong := range []string{"", "52:54", "zz:54:00:12:34:56", "52:54:00:12:34:56:78"} {
		if mac, err := parseMAC(wrong); err == nil {
			t.Errorf("%q is %v", wrong, mac)
		}
	}
}
