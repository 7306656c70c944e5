package main

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	resolvConf = "/etc/resolv.conf"
	// leasePlace is where PID 1, if it is this program, is asked for another lease: a Unix socket of type
	// SOCK_SEQPACKET. It answers a connection with leaseGiven, or with what is wrong.
	leasePlace = "/run/bouvet/lease.sock"
	leaseGiven = "+"
)

var errNoServer = errors.New("no DHCP server has given an address within " + networkPatience.String())

// leaseKeeper gets an address for a card, and keeps it.
type leaseKeeper struct {
	card     string
	mac      [6]byte
	asked    chan chan<- error // for another lease; how that went is sent to what is received
	resolver string            // what was written to resolvConf, "" if nothing
}

// run gets an address and renews it (RFC 2131, section 4.4.5), for as long as the machine runs. While the
// server that gave it is silent it goes on with the others; when the lease ends without an answer, or
// another one is asked for, it starts anew. It calls done once, when there is an address or will be none.
func (k *leaseKeeper) run(done func()) {
	var asker chan<- error
	for {
		client, current, err := k.obtain()
		if err != nil {
			tell("DHCP on "+k.card, err)
		} else {
			milestone(k.card + " has " + current.address.String())
		}
		done()
		done = func() {}
		if asker != nil {
			asker <- err
		}
		if err == nil {
			asker = k.hold(client, current)
			client.close()
		} else {
			asker = k.pause()
		}
	}
}

// obtain gets an address, however long that takes, and gives it to the card.
func (k *leaseKeeper) obtain() (*dhcpClient, lease, error) {
	client, err := newDHCPClient(k.card, k.mac)
	if err != nil {
		return nil, lease{}, err
	}
	given, err := client.acquire()
	if err == nil {
		err = k.configure(given)
	}
	if err != nil {
		client.close()
	}
	return client, given, err
}

// hold renews a lease until that fails, or until another one is asked for: then it returns by whom.
func (k *leaseKeeper) hold(client *dhcpClient, current lease) (asker chan<- error) {
	for {
		var due <-chan time.Time
		if current.duration != forever {
			due = time.After(current.duration / 2)
		}
		select {
		case asker := <-k.asked:
			return asker
		case <-due:
		}
		var err error
		if current, err = client.renew(current); err != nil {
			return nil
		}
	}
}

// pause waits before it is tried again, and returns who asks for that meanwhile.
func (k *leaseKeeper) pause() (asker chan<- error) {
	select {
	case asker := <-k.asked:
		return asker
	case <-time.After(retryMax):
		return nil
	}
}

func (k *leaseKeeper) configure(l lease) error {
	if err := setAddress(k.card, siocSetAddress, l.address); err != nil {
		return err
	}
	if err := setAddress(k.card, siocSetNetmask, l.netmask); err != nil {
		return err
	}
	if l.router != (ipv4{}) {
		if err := addDefaultRoute(l.router); err != nil && err != syscall.EEXIST {
			return os.NewSyscallError("add the default route", err)
		}
	}
	written, err := writeResolvConf(resolvConf, l, k.resolver)
	if err == nil && written != "" {
		k.resolver = written
	}
	return err
}

// writeResolvConf names the name servers, unless the image does, and returns what it has written, "" for
// nothing. What is there may be a link to nowhere; it is replaced, not followed.
//
//	own: what an earlier call has written, which may be replaced.
func writeResolvConf(path string, l lease, own string) (string, error) {
	content, err := readRegular(path, contentLimit)
	foreign := err == nil && strings.Contains("\n"+string(content), "\nnameserver") && string(content) != own
	if foreign || len(l.servers) == 0 {
		return "", nil
	}
	text := ""
	if l.domain != "" {
		text = "search " + l.domain + "\n"
	}
	for _, server := range l.servers {
		text += "nameserver " + server.String() + "\n"
	}
	fresh := path + ".new"
	_ = os.Remove(fresh)
	file, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text)
	if err := errors.Join(err, file.Close()); err != nil {
		return "", err
	}
	return text, os.Rename(fresh, path)
}

// serve answers the agent when it asks for another lease, since the machine was restored or cloned.
func (k *leaseKeeper) serve() {
	place, err := offerSocket(leasePlace)
	if err != nil {
		tell("no other lease can be asked for", err)
		return
	}
	for {
		fd, err := place.accept()
		if err != nil {
			return
		}
		asker := os.NewFile(uintptr(fd), leasePlace)
		answer := leaseGiven
		err = checkPeer(asker)
		if err == nil {
			err = k.another()
		}
		if err != nil {
			answer = err.Error()
		}
		_, _ = asker.WriteString(answer)
		asker.Close()
	}
}

// another asks for another lease, and returns how that went.
func (k *leaseKeeper) another() error {
	patience := time.After(networkPatience)
	given := make(chan error, 1)
	select {
	case k.asked <- given:
	case <-patience:
		return errNoServer
	}
	select {
	case err := <-given:
		return err
	case <-patience:
		return errNoServer
	}
}

// askForLease has PID 1 get another lease, and returns how that went.
func askForLease(place string) error {
	file, err := connectPacket(place)
	if err != nil {
		return err
	}
	defer file.Close()
	_ = file.SetReadDeadline(time.Now().Add(2 * networkPatience))
	answer := make([]byte, messageLimit)
	n, err := file.Read(answer)
	if err != nil {
		return err
	}
	if string(answer[:n]) != leaseGiven {
		return errors.New(string(answer[:n]))
	}
	return nil
}
