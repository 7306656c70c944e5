package main

import (
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// watchedProcess is one without a program: a test says what its one stream has.
func watchedProcess(t *testing.T, lossless bool) (p *process, s *stream, put func(string)) {
	t.Helper()
	reader, writer, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); writer.Close() })
	s = &stream{"stdout", reader, newRing(ringLeast)}
	t.Cleanup(s.release)
	p = &process{id: "1-1", lossless: lossless, streams: []*stream{s}, child: &child{},
		finished: make(chan struct{}), watchers: map[*connection]*watcher{}}
	p.changed = sync.NewCond(&p.lock)
	return p, s, func(text string) {
		t.Helper()
		if _, err := writer.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if _, err := p.fill(s, reader.Fd()); err != nil {
			t.Fatal(err)
		}
	}
}

// end is what attend does at last.
func (p *process) end() {
	p.change(func() {
		for _, s := range p.streams {
			s.closed = true
		}
	})
	close(p.finished)
}

// pairedHost returns a connection of the agent's, and its host's end.
func pairedHost(t *testing.T) (*connection, *testHost) {
	t.Helper()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := newConnection(testAgent(), ends[0])
	t.Cleanup(func() { c.file.Close() })
	return c, hostOf(t, os.NewFile(uintptr(ends[1]), "host"))
}

func TestOneConnectionWatchesOnce(t *testing.T) {
	p, _, put := watchedProcess(t, true)
	c, host := pairedHost(t)
	put("abc")
	first := newWatcher(p, c, encodingText, nil)
	second := newWatcher(p, c, encodingText, map[string]int64{"stdout": 1})
	first.run() // it was replaced, and tells nothing
	done := make(chan struct{})
	go func() {
		second.run()
		close(done)
	}()
	if method, said := host.next(); method != "process.output" || said["data"] != "bc" || said["offset"] != 1.0 {
		t.Errorf("%s %v", method, said)
	}
	p.end()
	if method, said := host.next(); method != "process.exit" || said["stdout"] != 3.0 {
		t.Errorf("%s %v", method, said)
	}
	<-done
	if len(p.watchers) != 0 {
		t.Error("it watches yet")
	}
}

func TestAWatcherEndsWithItsConnection(t *testing.T) {
	p, _, _ := watchedProcess(t, true)
	c, _ := pairedHost(t)
	w := newWatcher(p, c, encodingText, nil)
	done := make(chan struct{})
	go func() {
		w.run() // there is nothing to tell
		close(done)
	}()
	c.agent.serving.Add(1)
	c.finish()
	<-done
	if len(p.watchers) != 0 {
		t.Error("it watches yet")
	}
}

func TestCharactersAreNotDivided(t *testing.T) {
	p, _, put := watchedProcess(t, true)
	c, host := pairedHost(t)
	w := newWatcher(p, c, encodingText, nil)
	put("a\xe2\x82")
	go w.run()
	if _, said := host.next(); said["data"] != "a" {
		t.Errorf("%v", said)
	}
	put("\xac")
	if _, said := host.next(); said["data"] != "€" || said["offset"] != 1.0 {
		t.Errorf("%v", said)
	}
	put("\xe2")
	p.end() // nothing more comes of it
	if _, said := host.next(); said["data"] != "\ufffd" || said["offset"] != 4.0 {
		t.Errorf("%v", said)
	}
}

func TestOnlyALosslessProcessKeepsWhatWasNotSent(t *testing.T) {
	for _, lossless := range []bool{true, false} {
		p, s, put := watchedProcess(t, lossless)
		c, _ := pairedHost(t)
		w := newWatcher(p, c, encodingText, nil)
		put("abc")
		wanted := int64(3)
		if lossless {
			wanted = 0
		}
		p.lock.Lock()
		if got := p.unsent(s); got != wanted {
			t.Errorf("lossless %v: from %d on it stays, not %d", lossless, got, wanted)
		}
		w.sent[s] = 2
		if got := p.unsent(s); lossless && got != 2 {
			t.Errorf("from %d on it stays", got)
		}
		p.lock.Unlock()
	}
}

func TestAStalledWatcherIsWaitedForOnlyWhileTheProcessRuns(t *testing.T) {
	p, s, put := watchedProcess(t, true)
	c, _ := pairedHost(t)
	w := newWatcher(p, c, encodingText, nil)
	put("abc")
	p.lock.Lock()
	defer p.lock.Unlock()
	w.sending = time.Now().Add(-2 * stallGrace)
	if got := p.unsent(s); got != 0 {
		t.Errorf("while the process runs, from %d on it stays", got)
	}
	p.draining = true
	if got := p.unsent(s); got != 3 {
		t.Errorf("it takes nothing, and from %d on it stays", got)
	}
	w.sending = time.Now()
	if got := p.unsent(s); got != 0 {
		t.Errorf("it has just been sent something, and from %d on it stays", got)
	}
	if wait := p.nextStall(); wait <= 0 || wait > stallGrace {
		t.Errorf("it is looked after again in %s", wait)
	}
}
