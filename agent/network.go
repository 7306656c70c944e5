package main

import (
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"unsafe"
)

// The numbers of netdevice(7) and of <linux/route.h>.
const (
	siocAddRoute   = 0x890b
	siocGetFlags   = 0x8913
	siocSetFlags   = 0x8914
	siocSetAddress = 0x8916
	siocSetNetmask = 0x891c
	routeUp        = 1
	routeGateway   = 2
)

// interfaceRequest is struct ifreq of <linux/if.h> with the members that are used here.
type interfaceRequest struct {
	name [syscall.IFNAMSIZ]byte
	data [24]byte
}

const _ = -(unsafe.Sizeof(interfaceRequest{}) ^ 40)

// internetAddress is struct sockaddr_in.
type internetAddress struct {
	family uint16
	port   [2]byte
	ip     ipv4
	zero   [8]byte
}

const _ = -(unsafe.Sizeof(internetAddress{}) ^ 16)

// routeRequest is struct rtentry of <linux/route.h> on 64-bit machines.
type routeRequest struct {
	_                             uint64
	destination, gateway, netmask internetAddress
	flags                         uint16
	_                             [22]byte
	metric                        int16
	device                        uintptr
	_                             [24]byte
}

const _ = -(unsafe.Sizeof(routeRequest{}) ^ 120)

type ipv4 [4]byte

// startNetwork brings the loopback up and, where that is wanted and there is a card, configures it by
// DHCP, for as long as the machine runs. It calls done once, when the network is there or will not be.
func startNetwork(wanted bool, done func()) {
	tell("bring the loopback up", bringUp("lo"))
	if !wanted {
		done()
		return
	}
	name, mac, err := findCard()
	if name == "" {
		tell("network", err)
		done()
		return
	}
	if err := bringUp(name); err != nil {
		tell("bring up "+name, err)
		done()
		return
	}
	keeper := &leaseKeeper{card: name, mac: mac, asked: make(chan chan<- error)}
	go keeper.serve()
	keeper.run(done)
}

// findCard returns the first Ethernet card, by name; its driver is loaded if that was not done yet.
func findCard() (name string, mac [6]byte, err error) {
	if name, mac = firstCard(); name != "" || !hasVirtioCard() {
		return name, mac, nil
	}
	err = loadDriver("virtio_net")
	name, mac = firstCard()
	return name, mac, err
}

func firstCard() (string, [6]byte) {
	entries, _ := os.ReadDir("/sys/class/net")
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	sort.Strings(names)
	for _, name := range names {
		const ethernet = "1" // ARPHRD_ETHER
		kind, _ := os.ReadFile("/sys/class/net/" + name + "/type")
		address, _ := os.ReadFile("/sys/class/net/" + name + "/address")
		if mac, err := parseMAC(strings.TrimSpace(string(address))); err == nil && strings.TrimSpace(string(kind)) == ethernet {
			return name, mac
		}
	}
	return "", [6]byte{}
}

func hasVirtioCard() bool {
	const networkCard = "0x0001" // the device type, virtio 1.2, section 5
	paths, _ := filepath.Glob("/sys/bus/virtio/devices/*/device")
	for _, path := range paths {
		if kind, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(kind)) == networkCard {
			return true
		}
	}
	return false
}

func bringUp(name string) error {
	return withRequest(name, func(socket int, request *interfaceRequest) error {
		if err := ioctl(socket, siocGetFlags, unsafe.Pointer(request)); err != nil {
			return os.NewSyscallError("ioctl", err)
		}
		*(*uint16)(unsafe.Pointer(&request.data)) |= syscall.IFF_UP
		return os.NewSyscallError("ioctl", ioctl(socket, siocSetFlags, unsafe.Pointer(request)))
	})
}

func setAddress(name string, what uintptr, ip ipv4) error {
	return withRequest(name, func(socket int, request *interfaceRequest) error {
		*(*internetAddress)(unsafe.Pointer(&request.data)) = internetAddress{family: syscall.AF_INET, ip: ip}
		return os.NewSyscallError("set an address", ioctl(socket, what, unsafe.Pointer(request)))
	})
}

func addDefaultRoute(router ipv4) error {
	everything := internetAddress{family: syscall.AF_INET}
	gateway := internetAddress{family: syscall.AF_INET, ip: router}
	request := routeRequest{
		destination: everything, gateway: gateway, netmask: everything, flags: routeUp | routeGateway,
	}
	return withSocket(func(socket int) error { return ioctl(socket, siocAddRoute, unsafe.Pointer(&request)) })
}

func withRequest(name string, use func(int, *interfaceRequest) error) error {
	var request interfaceRequest
	if copy(request.name[:len(request.name)-1], name) != len(name) {
		return errors.New("the name of the interface is too long: " + name)
	}
	return withSocket(func(socket int) error { return use(socket, &request) })
}

func withSocket(use func(int) error) error {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer syscall.Close(socket)
	return use(socket)
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, number := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); number != 0 {
		return number
	}
	return nil
}
