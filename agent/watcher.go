package main

// watcher passes a process's output on to one connection, as fast as that takes it.
type watcher struct {
	process    *process
	connection *connection
	encoding   string
	sent       map[*stream]int64 // guarded by the process's lock, as all that follows
	awaited    map[*stream]int64 // what has to come before a stream goes on: the rest of a character
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
	lost := s.oldest - offset
	if lost > 0 {
		w.sent[s] = s.oldest
		p.lock.Unlock()
		params := w.process.identified().text("stream", []byte(s.name)).integer("offset", offset)
		w.connection.notify("process.gap", params.integer("length", lost).end())
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
	p.lock.Unlock()
	params := w.process.identified().text("stream", []byte(s.name)).integer("offset", offset)
	params = params.bytes("data", content, w.encoding).text("encoding", []byte(w.encoding))
	w.connection.notify("process.output", params.end())
	p.change(func() { w.sent[s] = offset + int64(len(content)) })
	return true
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
