package main

import "time"

// watcher passes a process's output on to one connection, as fast as that takes it.
type watcher struct {
	process    *process
	connection *connection
	encoding   string
	sent       map[*stream]int64 // guarded by the process's lock, as all that follows
	awaited    map[*stream]int64 // what has to come before a stream goes on: the rest of a character
	sending    time.Time         // since when the connection has been taking what it is sent; zero while nothing is
	stopped    bool
	forget     func() // the connection's end
}

// newWatcher lets a connection watch a process, from each stream's offset on, and nobody else of it.
func newWatcher(p *process, c *connection, encoding string, offsets map[string]int64) *watcher {
	w := &watcher{process: p, connection: c, encoding: encoding, sent: map[*stream]int64{}, awaited: map[*stream]int64{}}
	p.change(func() {
		for _, s := range p.streams {
			w.sent[s] = min(offsets[s.name], s.next)
		}
		if previous := p.watchers[c]; previous != nil {
			previous.stopped = true
		}
		p.watchers[c] = w
	})
	c.calls.Add(1)
	w.forget = c.onEnd(w.stop)
	return w
}

// stop ends the watcher soon.
func (w *watcher) stop() {
	w.process.change(func() {
		w.stopped = true
		if w.process.watchers[w.connection] == w {
			delete(w.process.watchers, w.connection)
		}
	})
}

// patience returns how long the watcher is still waited for after the process's end; 0 or less if it has
// taken nothing for too long. The process's lock must be held.
func (w *watcher) patience(now time.Time) time.Duration {
	if w.sending.IsZero() {
		return stallGrace
	}
	return stallGrace - now.Sub(w.sending)
}

// run tells the connection of all output, and at last of the process's end.
func (w *watcher) run() {
	defer w.connection.calls.Done()
	piece := pieces.Get().(*[32 << 10]byte)
	for w.pass(piece[:]) {
	}
	pieces.Put(piece)
	w.process.lock.Lock()
	stopped := w.stopped
	w.process.lock.Unlock()
	if !stopped {
		<-w.process.finished
		w.connection.notify("process.exit", w.process.told(w.process.identified()).end())
	}
	w.stop()
	w.forget()
}

// pass tells the connection of the next bytes of a stream, and says whether there can be more.
func (w *watcher) pass(room []byte) bool {
	p := w.process
	p.lock.Lock()
	s, last := w.ready()
	if s == nil {
		p.lock.Unlock()
		return false
	}
	offset := w.sent[s]
	if lost := s.oldest - offset; lost > 0 {
		w.begin()
		w.tell(s, "process.gap", offset, lost, nil)
		return true
	}
	content := s.copyFrom(offset, room)
	if w.encoding != encodingBase64 && !(last && offset+int64(len(content)) == s.next) {
		whole := len(content) - splitBytes(content)
		if whole == 0 {
			// The rest of the character may come, or the end.
			w.awaited[s] = offset + int64(len(content)) + 1
			p.lock.Unlock()
			return true
		}
		content = content[:whole]
	}
	w.begin()
	w.tell(s, "process.output", offset, int64(len(content)), content)
	return true
}

// begin notes that the connection is being told something, and releases the process's lock.
func (w *watcher) begin() {
	w.sending = time.Now()
	w.process.lock.Unlock()
}

// tell tells the connection of a stream's next bytes: what they are, or, if that is nil, how many are lost.
func (w *watcher) tell(s *stream, method string, offset, length int64, content []byte) {
	params := w.process.identified().text("stream", []byte(s.name)).integer("offset", offset)
	if content == nil {
		params = params.integer("length", length)
	} else {
		params = params.bytes("data", content, w.encoding).text("encoding", []byte(w.encoding))
	}
	w.connection.notify(method, params.end())
	w.process.change(func() { w.sent[s], w.sending = offset+length, time.Time{} })
}

// ready waits for a stream that has something to tell, and returns it, and whether no more bytes come of
// it; nil when nothing comes any more, of any. The process's lock must be held.
func (w *watcher) ready() (found *stream, last bool) {
	for !w.stopped {
		open := false
		for _, s := range w.process.streams {
			if s.next > w.sent[s] && (s.closed || s.next >= w.awaited[s]) {
				return s, s.closed
			}
			open = open || !s.closed
		}
		if !open {
			return nil, false
		}
		w.process.changed.Wait()
	}
	return nil, false
}
