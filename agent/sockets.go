package main

import (
	"errors"
	"os"
	"syscall"
)

// sockets are where an agent listens, and where it offers that to a successor.
type sockets struct {
	listening  *listener
	ready      *os.File  // nil, or to be written to when connections are accepted
	place      *listener // nil if it cannot be succeeded
	handedOver chan bool // says, once the offer is over, whether a successor has taken it
}

// openSockets gets the listening socket: it inherits it, takes it over, or binds it. It returns nil,
// and reports why, if there is none to be had.
func openSockets(chosen options) *sockets {
	s := &sockets{handedOver: make(chan bool, 1)}
	var before *predecessor
	var err error
	switch {
	case chosen.inherit:
		s.listening, s.ready = inherit(chosen.address)
	case chosen.handover != "":
		s.listening, before, err = takeOver(chosen.handover, chosen.address)
		if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) {
			report("cannot take over: " + err.Error())
		}
	}
	if s.listening == nil {
		if s.listening, err = listen(chosen.address, report); err != nil {
			report(err.Error())
			return nil
		}
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
