package main

import (
	"errors"
	"sync/atomic"
	"syscall"
)

const (
	// ringDefault and ringLeast are how many bytes of a process's stream are kept, unless asked for
	// otherwise; ringMost is how many can be asked for.
	ringDefault = 64 << 10
	ringLeast   = 4 << 10
	ringMost    = 1 << 20
	// ringBudget is how many bytes all streams together may keep; over it, a new one keeps ringLeast.
	ringBudget = 2 << 20
)

// ringBytes is how many bytes all rings together may hold.
var ringBytes atomic.Int64

// errNoRoom is a ring's whose bytes must all stay.
var errNoRoom = errors.New("no room")

// ring keeps the last bytes of a stream. Each byte has an offset: how many came before it.
type ring struct {
	buffer []byte // nil until something comes
	size   int64
	oldest int64 // the offset of the first byte that is kept
	next   int64 // the offset of the next byte that comes
	closed bool  // none comes any more
}

func newRing(size int64) ring {
	if ringBytes.Add(size) > ringBudget {
		ringBytes.Add(ringLeast - size)
		size = ringLeast
	}
	return ring{size: size}
}

// release gives the ring's room back, once.
func (r *ring) release() {
	ringBytes.Add(-r.size)
	*r = ring{oldest: r.next, next: r.next, closed: true}
}

// fill reads what a descriptor has, which does not block, and returns what read(2) does. It gives up the
// oldest bytes for the new ones, but none from the offset on that must stay: without room it is errNoRoom.
func (r *ring) fill(fd int, stays int64) (int, error) {
	if r.size == 0 {
		return 0, nil
	}
	if r.next-stays >= r.size {
		return 0, errNoRoom
	}
	if r.buffer == nil {
		r.buffer = make([]byte, r.size)
	}
	start := r.next % r.size
	end := min(r.size, start+r.size-(r.next-stays))
	n, err := readAgain(fd, r.buffer[start:end])
	r.next += int64(n)
	r.oldest = max(r.oldest, r.next-r.size)
	return n, err
}

// copyFrom copies bytes from an offset on that is kept, as many as there are and fit.
func (r *ring) copyFrom(offset int64, into []byte) []byte {
	copied := 0
	for offset < r.next && copied < len(into) {
		start := offset % r.size
		end := min(r.size, start+r.next-offset)
		n := copy(into[copied:], r.buffer[start:end])
		copied += n
		offset += int64(n)
	}
	return into[:copied]
}

// streamEnded says whether a read's outcome is the stream's end: a terminal whose last user is gone
// fails with EIO.
func streamEnded(n int, err error) bool {
	return (n == 0 && err == nil) || err == syscall.EIO
}
