package main

import (
	"errors"
	"os"
	"strconv"
	"time"
)

// renewers are programs that have a card configured anew, with their arguments before the card's name,
// and a file that is there only where they are in charge. The first that fits is used.
var renewers = []struct {
	sign     string
	commands [][]string
}{
	{"/run/systemd/netif/state", [][]string{{"networkctl", "renew"}}},
	{"/etc/network/interfaces", [][]string{{"ifdown", "--force"}, {"ifup"}}},
	{"/sbin/dhclient", [][]string{{"dhclient", "-r"}, {"dhclient"}}},
}

var errNoRenewer = errors.New("there is no DHCP client that could be asked")

// renewNetwork gets the card's address anew. A machine without a card has nothing to change.
func (a *agent) renewNetwork() (bool, error) {
	card, _ := firstCard()
	if card == "" {
		return false, nil
	}
	if _, err := os.Stat(leasePlace); err == nil {
		return true, askForLease(leasePlace)
	}
	for _, renewer := range renewers {
		if _, err := os.Stat(renewer.sign); err != nil {
			continue
		}
		for i, command := range renewer.commands {
			err := a.runBriefly(append(command, card)...)
			// What takes the card down may fail where it is down already.
			if err != nil && i == len(renewer.commands)-1 {
				return false, err
			}
		}
		return true, nil
	}
	return false, errNoRenewer
}

// runBriefly runs a program of the machine's, which is ended after networkPatience.
func (a *agent) runBriefly(argv ...string) error {
	directory, environment := surroundings(currentAccount())
	o := a.execute(prepared{
		settings: settings{given: true}, argv: argv, directory: directory, environment: environment,
		maxOutput: messageLimit, deadline: time.Now().Add(networkPatience),
	}, nil)
	switch {
	case o.timedOut:
		return errors.New(argv[0] + " has not ended after " + networkPatience.String())
	case o.exitCode != 0:
		return errors.New(argv[0] + " failed with status " + strconv.Itoa(o.exitCode) + ": " + string(o.stderr))
	}
	return nil
}
