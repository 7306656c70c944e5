package main

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// sockets are where an agent listens, and where it offers that to a successor.
type sockets struct {
	listening  *listener
	lifeline   *os.File  // nil if nobody watches over the agent
	place      *listener // nil if it cannot be succeeded
	handedOver chan bool // says, once the offer is over, whether a successor has taken it
}

// openSockets gets the listening socket: it inherits it, takes it over, or binds it. It returns nil,
// and reports why, if there is none to be had.
func openSockets(chosen options) *sockets {
	s := &sockets{handedOver: make(chan bool, 1)}
	var before *predecessor
	var err error
	if chosen.inherit {
		s.listening, s.lifeline = inherit(chosen.address)
	} else if s.listening, before, err = claim(chosen); err != nil {
		report(err.Error())
		return nil
	}
	if chosen.handover != "" {
		if s.place, err = offerSocket(chosen.handover); err != nil {
			report("it cannot be succeeded: " + err.Error())
		}
	}
	if before != nil {
		before.stopAccepting()
	}
	if s.place != nil {
		go func() { s.handedOver <- offer(s.place, s.listening, chosen.address) }()
	}
	return s
}

// claim takes the listening socket over, or binds it. An address that is taken by nobody who offers it is
// a crashed agent's, whose monitor starts another: that one is waited for, as long as it may take.
func claim(chosen options) (*listener, *predecessor, error) {
	deadline := time.Now().Add(handoverDeadline)
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		if chosen.handover != "" {
			listening, before, err := takeOver(chosen.handover, chosen.address)
			if err == nil {
				return listening, before, nil
			}
			if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) {
				report("cannot take over: " + err.Error())
			}
		}
		listening, err := listen(chosen.address, report)
		if err == nil || chosen.handover == "" || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return listening, nil, err
		}
		time.Sleep(wait)
	}
}

// say tells who watches over the agent how it goes.
func (s *sockets) say(what byte) {
	if s.lifeline != nil {
		_, _ = s.lifeline.Write([]byte{what})
	}
}

// close ends the listening, unless a successor has just taken it over.
func (s *sockets) close() {
	if s.place != nil {
		s.place.release()
		if <-s.handedOver {
			s.listening.release()
			return
		}
		s.place.close()
	}
	s.listening.close()
}

// release leaves the sockets and their paths to the successor.
func (s *sockets) release() {
	s.place.release()
	s.listening.release()
}
