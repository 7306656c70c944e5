package main

import (
	"bytes"
	"encoding/json/jsontext"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
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
	writing  sync.Mutex
	calls    sync.WaitGroup
	commands chan struct{}
	files    chan struct{}
	started  bool // a first line was seen
}

func newConnection(a *agent, file *os.File) *connection {
	return &connection{
		agent:    a,
		file:     file,
		commands: make(chan struct{}, commandLimit),
		files:    make(chan struct{}, fileLimit),
	}
}

// serve returns when the client is gone and the last of its requests is done: a command runs on to its
// end. (The end of the stream may be a half-close, too: who asked may still listen.)
func (c *connection) serve() {
	splitter := lineSplitter{limit: lineLimit}
	for open := true; open; {
		err := readPiece(c.file, func(piece []byte) {
			open = len(piece) > 0
			splitter.feed(piece, c.line, c.tooLong)
		})
		open = open && err == nil
	}
	splitter.release()
	c.calls.Wait()
	c.file.Close()
}

// refuse makes the connection read no further request.
func (c *connection) refuse() {
	_ = c.file.SetReadDeadline(time.Unix(0, 1))
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

// dispatch starts what a request asks for. A request without an id is a notification: it is done, and
// never answered.
func (c *connection) dispatch(asked request, large bool) {
	answer := func(result []byte, failure *rpcError) {
		if !asked.notification {
			c.write(response(asked.id, result, failure))
		}
	}
	method, known := methods[asked.method]
	if !known {
		answer(nil, &rpcError{code: codeMethodNotFound, message: "method not found: " + asked.method})
		return
	}
	call, failure := method.prepare(c.agent, asked.params)
	if failure != nil {
		answer(nil, failure)
		return
	}
	var slots chan struct{}
	switch method.kind {
	case immediate:
		answer(call())
		return
	case file:
		slots = c.files
		slots <- struct{}{}
	case command:
		slots = c.commands
		select {
		case slots <- struct{}{}:
		default:
			answer(nil, &rpcError{code: codeInternal, message: "too many commands run on this connection"})
			return
		}
	}
	c.calls.Add(1)
	go func() {
		result, failure := call()
		answer(result, failure)
		large = large || len(result) >= largeLine
		result, call = nil, nil
		<-slots
		c.calls.Done()
		if large {
			debug.FreeOSMemory()
		}
	}()
}

// write sends one line. A client that is gone, or that does not read, is found out by reading.
func (c *connection) write(line []byte) {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, _ = c.file.Write(line)
}

// call does what a request asks for, after its params were read.
type call func() (result []byte, failure *rpcError)

type methodKind int

const (
	immediate methodKind = iota // done while the next request waits: never blocks
	file
	command
)

type method struct {
	kind    methodKind
	prepare func(*agent, jsontext.Value) (call, *rpcError)
}

var methods = map[string]method{
	"ping":       {immediate, (*agent).ping},
	"exec":       {command, (*agent).exec},
	"exec_code":  {command, (*agent).execCode},
	"read_file":  {file, (*agent).readFile},
	"write_file": {file, (*agent).writeFile},
	"list_dir":   {file, (*agent).listDir},
}

func (a *agent) ping(params jsontext.Value) (call, *rpcError) {
	if err := decodeParams(params); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) { return object(nil).boolean("pong", true).end(), nil }, nil
}
