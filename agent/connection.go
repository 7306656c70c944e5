package main

import (
	"bytes"
	"encoding/json/jsontext"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// commandLimit is how many commands one connection may have running at once; one more is refused,
	// since nobody knows when a command ends.
	commandLimit = 256
	// fileLimit is how many file operations of one connection are done at once; the next waits, since
	// they all end soon.
	fileLimit = 16
	// largeLine is from where on, in bytes of its request or result, the memory that a call took goes
	// back to the kernel as soon as it is done.
	largeLine = 1 << 20
)

// A host whose VMM passes its first line through says this before its requests.
const (
	connectLine   = "CONNECT 52"
	connectAnswer = "OK 52\n"
)

// connection serves one client: it reads lines, does requests side by side, and writes each response
// when it is there.
type connection struct {
	agent    *agent
	file     *os.File
	socket   int // the file's descriptor
	splitter lineSplitter
	writing  sync.Mutex
	calls    sync.WaitGroup
	commands chan struct{}
	files    chan struct{}
	started  bool          // a first line was seen
	lost     chan struct{} // closed when the client sends no more

	lock    sync.Mutex
	open    map[string]chan struct{} // the requests that can be cancelled, by their id
	refused bool                     // the agent is ending
	broken  bool                     // what the client sends on is no request
	waiting bool                     // it is idle: nobody reads it until something comes
	known   bool                     // to what waits for those that are idle
	atEnd   map[*func()]struct{}     // see onEnd
}

func newConnection(a *agent, socket int) *connection {
	return &connection{
		agent:    a,
		file:     os.NewFile(uintptr(socket), "connection"),
		socket:   socket,
		splitter: lineSplitter{limit: lineLimit},
		lost:     make(chan struct{}),
	}
}

// notes are buffers for the first read of what has come: most requests fit, and a thousand connections
// may hold one each.
var notes = sync.Pool{New: func() any { return new([512]byte) }}

// receive reads what has come, and does what is asked for, until nothing more is there: then the client
// is waited for. At the stream's end it finishes. (That may be a half-close, too: who asked may still
// listen.)
func (c *connection) receive() {
	note := notes.Get().(*[512]byte)
	full, err := c.take(note[:])
	notes.Put(note)
	for full && err == nil {
		piece := pieces.Get().(*[32 << 10]byte)
		full, err = c.take(piece[:])
		pieces.Put(piece)
	}
	if err != nil || !c.agent.idle.add(c) {
		c.finish()
	}
}

// take reads once without waiting, and does what is asked for. It says whether there may be more to read.
func (c *connection) take(room []byte) (full bool, err error) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return false, err
	}
	var n int
	var failure error
	if err := raw.Read(func(fd uintptr) bool {
		n, failure = readAgain(int(fd), room)
		return true
	}); err != nil {
		return false, err
	}
	switch {
	case failure == syscall.EAGAIN:
		return false, nil
	case failure != nil:
		return false, failure
	case n == 0:
		return false, io.EOF
	}
	c.splitter.feed(room[:n], c.line, c.tooLong)
	return n == len(room), nil
}

// finish ends a connection whose client sends no more, when the last of its requests is done: a command
// runs on to its end.
func (c *connection) finish() {
	c.splitter.release()
	c.lock.Lock()
	refused, ends := c.refused, c.atEnd
	c.atEnd = nil
	c.lock.Unlock()
	if !refused {
		close(c.lost)
		for end := range ends {
			(*end)()
		}
	}
	c.calls.Wait()
	c.agent.forget(c)
}

// refuse makes the connection read no further request: the agent is ending.
func (c *connection) refuse() {
	c.lock.Lock()
	c.refused = true
	c.lock.Unlock()
	_ = c.file.SetReadDeadline(time.Unix(0, 1))
	c.resume()
}

// onEnd has something done when the client sends no more, unless the returned function is called
// before. It is not done if the agent itself ends. It must not block.
func (c *connection) onEnd(do func()) (forget func()) {
	key := &do
	c.lock.Lock()
	defer c.lock.Unlock()
	select {
	case <-c.lost:
		go do()
		return func() {}
	default:
	}
	if c.atEnd == nil {
		c.atEnd = map[*func()]struct{}{}
	}
	c.atEnd[key] = struct{}{}
	return func() {
		c.lock.Lock()
		delete(c.atEnd, key)
		c.lock.Unlock()
	}
}

func (c *connection) tooLong() {
	c.started = true
	c.write(response(nil, nil, invalidRequest("a line is longer than "+strconv.Itoa(lineLimit)+" bytes")))
}

func (c *connection) line(line []byte) {
	first := !c.started
	c.started = true
	if first && string(line) == connectLine {
		c.write([]byte(connectAnswer))
		return
	}
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	asked, failure := decodeRequest(line)
	if failure != nil {
		c.write(response(asked.id, nil, failure))
		return
	}
	c.dispatch(asked, len(line) >= largeLine)
}

// caller is who asked for a call, and whether it is still wanted.
type caller struct {
	*agent
	connection   *connection
	id           jsontext.Value
	notification bool          // no answer is wanted
	cancelled    chan struct{} // closed by the method cancel; nil if the call cannot be cancelled
	upload       *frameReader  // what the client sends after the request of an upload
	after        func()        // begun once the answer is sent; it may go on for long
}

func (w *caller) answer(result []byte, failure *rpcError) {
	if !w.notification {
		w.connection.write(response(w.id, result, failure))
	}
	if w.after != nil {
		go w.after()
	}
}

// dispatch starts what a request asks for. A request without an id is a notification: it is done, and
// never answered.
func (c *connection) dispatch(asked request, large bool) {
	who := &caller{agent: c.agent, connection: c, id: asked.id, notification: asked.notification}
	method, known := methods[asked.method]
	if !known {
		who.answer(nil, &rpcError{code: codeMethodNotFound, message: "method not found: " + asked.method})
		return
	}
	var slots chan struct{}
	switch method.kind {
	case file:
		if c.files == nil { // only now: most of a thousand connections are idle
			c.files = make(chan struct{}, fileLimit)
		}
		slots = c.files
		slots <- struct{}{}
	case command:
		if c.commands == nil {
			c.commands = make(chan struct{}, commandLimit)
		}
		slots = c.commands
		select {
		case slots <- struct{}{}:
		default:
			who.answer(nil, &rpcError{code: codeInternal, message: "too many commands run on this connection"})
			return
		}
		c.register(who)
	case upload:
		who.upload = &frameReader{connection: c}
	}
	call, failure := method.prepare(who, asked.params)
	switch {
	case slots == nil:
		c.inline(who, method.kind, call, failure)
		return
	case failure != nil:
		c.unregister(who)
		<-slots
		who.answer(nil, failure)
		return
	}
	c.calls.Add(1)
	go func() {
		result, failure := call()
		if c.unregister(who) {
			result, failure = nil, &rpcError{code: codeCancelled, message: "cancelled"}
		}
		who.answer(result, failure)
		large = large || len(result) >= largeLine
		result, call = nil, nil
		<-slots
		c.calls.Done()
		if large {
			debug.FreeOSMemory()
		}
	}()
}

// inline does a call while the next request waits.
func (c *connection) inline(who *caller, kind methodKind, call call, failure *rpcError) {
	var result []byte
	if failure == nil {
		result, failure = call()
	}
	if kind == upload && !who.upload.drain() {
		// What follows a broken stream is no request.
		c.refuseBroken()
	}
	if kind != download || failure != nil {
		who.answer(result, failure)
	}
}

// refuseBroken ends the reading of a client that does not keep to the protocol.
func (c *connection) refuseBroken() {
	c.splitter.rest = nil
	c.lock.Lock()
	c.broken = true
	c.lock.Unlock()
	_ = c.file.SetReadDeadline(time.Unix(0, 1))
}

// register makes a request one that can be cancelled by its id. Of two with the same id, the first is.
func (c *connection) register(who *caller) {
	if who.id == nil {
		return
	}
	who.cancelled = make(chan struct{})
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.open == nil {
		c.open = map[string]chan struct{}{}
	}
	if _, taken := c.open[string(who.id)]; !taken {
		c.open[string(who.id)] = who.cancelled
	}
}

// unregister says whether a request was cancelled; it cannot be any more.
func (c *connection) unregister(who *caller) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	if who.cancelled == nil {
		return false
	}
	if c.open[string(who.id)] == who.cancelled {
		delete(c.open, string(who.id))
	}
	select {
	case <-who.cancelled:
		return true
	default:
		return false
	}
}

// cancel is the method of that name. The request that it names is answered with codeCancelled as soon
// as it has ended what it began.
func (w *caller) cancel(params jsontext.Value) (call, *rpcError) {
	var id jsontext.Value
	name := field{"id", true, "a request's id", func(value jsontext.Value) bool {
		id = value
		return value.Kind() == '"' || value.Kind() == '0'
	}}
	if err := decodeParams(params, name); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		c := w.connection
		c.lock.Lock()
		defer c.lock.Unlock()
		open, known := c.open[string(id)]
		delete(c.open, string(id))
		if known {
			close(open)
		}
		return object(nil).boolean("cancelled", known).end(), nil
	}, nil
}

// write sends one line and says whether it could be. A client that is gone, or that does not read, is
// found out by reading.
func (c *connection) write(line []byte) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.file.Write(line)
	return err == nil
}

// notify tells the client something unasked. It says whether it could be sent.
func (c *connection) notify(method string, params []byte) bool {
	return c.write(notification(method, params))
}
