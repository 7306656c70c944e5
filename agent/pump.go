package main

import (
	"syscall"
	"time"
)

// stallGrace is how long a watcher may take nothing once the process has ended. It then loses the oldest
// bytes that are in the others' way: the process's end is theirs, too.
const stallGrace = 5 * time.Second

// pump reads a stream to its end, as fast as it may.
func (p *process) pump(s *stream) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return
	}
	for open := true; open; {
		p.awaitRoom(s)
		waited := raw.Read(func(fd uintptr) bool {
			n, err := p.fill(s, fd)
			open = !streamEnded(n, err)
			return err != syscall.EAGAIN
		})
		if waited != nil {
			// What lies in a pipe when the grace is over still belongs to the process.
			p.pumpRest(s, raw)
			return
		}
	}
}

// pumpRest reads what is there without waiting for more, at most one full pipe.
func (p *process) pumpRest(s *stream, raw syscall.RawConn) {
	for rest := outputLimit; rest > 0; {
		p.awaitRoom(s)
		n, err := 0, error(nil)
		_ = raw.Control(func(fd uintptr) { n, err = p.fill(s, fd) })
		if err == errNoRoom {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		rest -= n
	}
}

func (p *process) fill(s *stream, fd uintptr) (n int, err error) {
	p.change(func() { n, err = s.fill(int(fd), p.unsent(s)) })
	return n, err
}

// awaitRoom waits, if the process is one that does, until those who watch it have been sent enough of
// what is kept.
func (p *process) awaitRoom(s *stream) {
	p.lock.Lock()
	defer p.lock.Unlock()
	for s.next-p.unsent(s) >= s.size && !s.closed {
		var waking *time.Timer
		if p.draining {
			waking = time.AfterFunc(p.nextStall(), func() { p.change(func() {}) })
		}
		p.changed.Wait()
		if waking != nil {
			waking.Stop()
		}
	}
}

// unsent returns the offset of the first byte that may not be given up: somebody who watches has still
// to get it, and the process is one that waits for that. The lock must be held.
func (p *process) unsent(s *stream) int64 {
	least := s.next
	if !p.lossless {
		return least
	}
	now := time.Now()
	for _, w := range p.watchers {
		if !p.draining || w.patience(now) > 0 {
			least = min(least, max(w.sent[s], s.oldest))
		}
	}
	return least
}

// nextStall returns how long it takes until a watcher that takes nothing is waited for no more. The lock
// must be held.
func (p *process) nextStall() time.Duration {
	least, now := stallGrace, time.Now()
	for _, w := range p.watchers {
		if patience := w.patience(now); patience > 0 {
			least = min(least, patience)
		}
	}
	return least
}
