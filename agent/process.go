package main

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// processLimit is how many processes the agent knows at once; of those that have ended, the first that
// did is forgotten for a new one.
const processLimit = 256

var errTooManyProcesses = errors.New("too many processes run")

// processes are those that hosts have started by process.start.
type processes struct {
	lock    sync.Mutex
	started int
	known   map[string]*process
	ended   []*process // in the order of their ends
	pumping sync.WaitGroup
}

// process is one that hosts can watch, write to, and ask for by its id, from any connection.
type process struct {
	id       string
	number   int    // in the order of starts
	command  string // for people
	child    *child
	group    *cgroup
	streams  []*stream
	input    *os.File // its standard input, or its terminal; nil if it has none
	terminal bool
	lossless bool
	encoding string
	began    time.Time

	writing  sync.Mutex // one writes to its input at a time
	finished chan struct{}
	ending   ending // to be read after finished is closed

	// The lock is of the streams' rings and of the watchers; changed is told of every change of them.
	lock     sync.Mutex
	changed  *sync.Cond
	watchers map[*connection]*watcher
	draining bool // it has ended: those who watch it are waited for no longer than stallGrace
	over     bool // nothing of it is left that could be signalled: its group is another's soon
}

// ending is how a process ended.
type ending struct {
	timedOut, oomKilled bool
	duration            time.Duration
}

// stream is one of a process's outputs.
type stream struct {
	name string
	file *os.File
	ring
}

// find returns the process of an id, or nil.
func (p *processes) find(id string) *process {
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.known[id]
}

// add starts a process and takes it in, under an id of its own: no other agent of this boot uses it.
func (p *processes) add(added *process, start func() error) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	full := len(p.known) >= processLimit
	if full && len(p.ended) == 0 {
		return errTooManyProcesses
	}
	if err := start(); err != nil {
		return err
	}
	if full {
		p.remove(p.ended[0])
	}
	p.started++
	added.number = p.started
	added.id = strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(p.started)
	if p.known == nil {
		p.known = map[string]*process{}
	}
	p.known[added.id] = added
	return nil
}

// end notes that a process has ended.
func (p *processes) end(ended *process) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.known[ended.id] == ended {
		p.ended = append(p.ended, ended)
	}
}

// forget removes a process that has ended.
func (p *processes) forget(ended *process) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.remove(ended)
}

// remove is forget for those that hold the lock.
func (p *processes) remove(removed *process) {
	if p.known[removed.id] != removed {
		return
	}
	delete(p.known, removed.id)
	for i, other := range p.ended {
		if other == removed {
			p.ended = append(p.ended[:i], p.ended[i+1:]...)
			break
		}
	}
	removed.lock.Lock()
	defer removed.lock.Unlock()
	for _, s := range removed.streams {
		s.release()
	}
	removed.changed.Broadcast()
}

// startProcess starts a process whose streams are kept.
func (a *agent) startProcess(w wanted) (*process, error) {
	program, err := findProgram(w.argv[0], w.environment)
	if err != nil {
		return nil, err
	}
	p := &process{
		command: w.command, terminal: w.rows != 0, lossless: w.lossless, encoding: w.encoding,
		finished: make(chan struct{}), watchers: map[*connection]*watcher{},
	}
	p.changed = sync.NewCond(&p.lock)
	l := launch{program: program, argv: w.argv, environment: w.environment, directory: w.directory,
		credential: w.credential, terminal: p.terminal}
	inner, err := p.open(w, &l)
	if err == nil {
		l.group = a.groups.take()
		p.group, p.began = l.group, time.Now()
		if err = a.processes.add(p, func() (err error) {
			p.child, err = a.children.start(l)
			return err
		}); err != nil {
			a.groups.give(l.group)
		}
	}
	for _, file := range inner {
		file.Close()
	}
	if err != nil {
		p.closeFiles()
		return nil, err
	}
	a.processes.pumping.Add(1)
	return p, nil
}

// open makes a process's streams, and returns the ends that are the process's own.
func (p *process) open(w wanted, l *launch) (inner []*os.File, err error) {
	if p.terminal {
		agentEnd, processEnd, err := openTerminal(w.rows, w.columns)
		if err != nil {
			return nil, err
		}
		p.input = agentEnd
		p.streams = []*stream{{"terminal", agentEnd, newRing(w.buffer)}}
		l.streams = [3]*os.File{processEnd, processEnd, processEnd}
		return []*os.File{processEnd}, nil
	}
	if w.stdin {
		l.streams[0], p.input, err = inputPipe()
	} else {
		l.streams[0], err = os.Open(os.DevNull)
	}
	if err != nil {
		return nil, err
	}
	inner = append(inner, l.streams[0])
	for i, name := range []string{"stdout", "stderr"} {
		outer, end, err := pipe()
		if err != nil {
			return inner, err
		}
		l.streams[i+1] = end
		inner = append(inner, end)
		p.streams = append(p.streams, &stream{name, outer, newRing(w.buffer)})
	}
	return inner, nil
}

// closeFiles is for a process that could not be started.
func (p *process) closeFiles() {
	if p.input != nil && !p.terminal {
		p.input.Close()
	}
	for _, s := range p.streams {
		s.file.Close()
		s.release()
	}
}

// attend reads a process's streams and waits for its end, or brings it about; it returns when all is
// told and read.
func (a *agent) attend(p *process, prepared prepared, w *caller) {
	defer a.processes.pumping.Done()
	var pumps sync.WaitGroup
	for _, s := range p.streams {
		pumps.Go(func() { p.pump(s) })
	}
	p.ending.timedOut = a.await(p.child, p.group, prepared, w)
	p.ending.duration = time.Since(p.began)
	p.ending.oomKilled = p.group.oomKilled()
	grace := time.Now().Add(pipeGrace)
	for _, s := range p.streams {
		_ = s.file.SetReadDeadline(grace)
	}
	p.change(func() { p.draining = true })
	pumps.Wait()
	p.writing.Lock()
	if p.input != nil && !p.terminal {
		p.input.Close()
	}
	p.input = nil
	p.writing.Unlock()
	for _, s := range p.streams {
		s.file.Close()
	}
	p.change(func() {
		p.over = true
		a.groups.give(p.group)
		for _, s := range p.streams {
			s.closed = true
		}
	})
	close(p.finished)
	a.processes.end(p)
}

// change does something with the lock held, and tells who waits for a change.
func (p *process) change(do func()) {
	p.lock.Lock()
	defer p.lock.Unlock()
	do()
	p.changed.Broadcast()
}

// signal sends a signal to a process, or to all that it has started as well.
func (a *agent) signal(p *process, number syscall.Signal, all bool) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	switch {
	case p.over:
		return syscall.ESRCH
	case !all:
		return a.children.signal(p.child, number)
	case p.group == nil:
		signalSession(p.child.pid, number)
	case number == syscall.SIGKILL:
		p.group.kill()
	default:
		p.group.signal(number)
	}
	return nil
}

// write gives a process its input, and returns how many bytes it took.
func (p *process) write(content []byte, closing bool, stop <-chan struct{}) (int, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.input == nil {
		return 0, syscall.EPIPE
	}
	if closing && p.terminal {
		content, closing = append(content, endOfInput), false
	}
	written, err := 0, error(nil)
	if len(content) > 0 {
		written, err = writeUntil(p.input, content, p.child.ended, stop)
	}
	if closing {
		p.input.Close()
		p.input = nil
	}
	return written, err
}

// writeUntil writes to a file of the poller, until it is done or one of the channels is closed.
func writeUntil(file *os.File, content []byte, ended, stop <-chan struct{}) (int, error) {
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ended:
		case <-stop:
		case <-done:
			return
		}
		_ = file.SetWriteDeadline(time.Unix(0, 1))
	}()
	written, err := file.Write(content)
	close(done)
	<-watched
	_ = file.SetWriteDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = syscall.EPIPE
	}
	return written, err
}
