package main

import (
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
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

const resolvConf = "/etc/resolv.conf"

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
	keepLease(name, mac, done)
}

// keepLease gets an address and renews it (RFC 2131, section 4.4.5). While the server that gave it is
// silent it goes on with the others; when the lease ends without an answer it starts anew.
func keepLease(name string, mac [6]byte, done func()) {
	for {
		client, err := newDHCPClient(name, mac)
		if err != nil {
			tell("DHCP on "+name, err)
			done()
			return
		}
		current, err := client.acquire()
		if err == nil {
			err = configure(name, current)
		}
		if err != nil {
			tell("DHCP on "+name, err)
		} else {
			milestone(name + " has " + current.address.String())
			done()
			done = func() {}
		}
		for err == nil && current.duration != forever {
			time.Sleep(current.duration / 2)
			current, err = client.renew(current)
		}
		client.close()
		if err == nil {
			return
		}
		time.Sleep(retryMax)
	}
}

func configure(name string, l lease) error {
	if err := setAddress(name, siocSetAddress, l.address); err != nil {
		return err
	}
	if err := setAddress(name, siocSetNetmask, l.netmask); err != nil {
		return err
	}
	if l.router != (ipv4{}) {
		if err := addDefaultRoute(l.router); err != nil && err != syscall.EEXIST {
			return os.NewSyscallError("add the default route", err)
		}
	}
	return writeResolvConf(l)
}

// writeResolvConf names the name servers, unless the image does. What is there may be a link to
// nowhere; it is replaced, not followed.
func writeResolvConf(l lease) error {
	content, err := readRegular(resolvConf, contentLimit)
	if err == nil && strings.Contains("\n"+string(content), "\nnameserver") || len(l.servers) == 0 {
		return nil
	}
	text := ""
	if l.domain != "" {
		text = "search " + l.domain + "\n"
	}
	for _, server := range l.servers {
		text += "nameserver " + server.String() + "\n"
	}
	fresh := resolvConf + ".new"
	_ = os.Remove(fresh)
	file, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(fresh, resolvConf)
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
