package main

import (
	"encoding/json/jsontext"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// terminalMost is the largest window, in rows and in columns.
const terminalMost = 1<<16 - 1

var processMethods = map[string]method{
	"process.start":  {file, (*caller).processStart},
	"process.attach": {immediate, (*caller).processAttach},
	"process.detach": {immediate, (*caller).processDetach},
	"process.wait":   {command, (*caller).processWait},
	"process.signal": {immediate, (*caller).processSignal},
	"process.kill":   {immediate, (*caller).processKill},
	"process.stdin":  {command, (*caller).processStdin},
	"process.resize": {immediate, (*caller).processResize},
	"process.list":   {immediate, (*caller).processList},
	"process.forget": {immediate, (*caller).processForget},
}

// wanted is a process as process.start asks for it.
type wanted struct {
	prepared
	command       string
	stdin         bool
	rows, columns int64 // of its terminal; 0 for none
	lossless      bool
	buffer        int64
}

// nothing is the result of a method that has none.
var nothing = []byte("{}")

// failed is the error response for a system call that failed.
func failed(err error) *rpcError {
	if errors.Is(err, os.ErrClosed) {
		err = syscall.EPIPE
	}
	return fileError(err)
}

// processStart is the method process.start.
func (w *caller) processStart(params jsontext.Value) (call, *rpcError) {
	var s settings
	var line string
	var argv []string
	asked := wanted{lossless: true, buffer: ringDefault}
	watch := true
	fields := s.fields(
		optional(text("cmd", &line)), optional(textList("argv", &argv)), optional(boolean("stdin", &asked.stdin)),
		optional(nested("pty", integer("rows", &asked.rows, 1, terminalMost), integer("columns", &asked.columns, 1, terminalMost))),
		optional(boolean("lossless", &asked.lossless)), optional(boolean("watch", &watch)),
		optional(integer("buffer", &asked.buffer, ringLeast, ringMost)))
	if err := decodeParams(params, fields...); err != nil {
		return nil, err
	}
	if (line == "") == (len(argv) == 0) {
		return nil, invalidParams("cmd or argv, one of them, says what to start")
	}
	p, failure := s.prepare()
	if failure != nil {
		return nil, failure
	}
	asked.prepared, asked.command = p, line
	asked.argv = shell(line, s.args)
	if line == "" {
		asked.argv = append(argv, s.args...)
		asked.command = strings.Join(asked.argv, " ")
	}
	asked.command = string(cutText([]byte(asked.command), messageLimit))
	if asked.rows != 0 {
		// Without a kind of terminal a shell cannot edit lines.
		asked.environment = withVariables(asked.environment, []string{"TERM=xterm-256color"})
		asked.environment = withVariables(asked.environment, s.variables)
	}
	return func() ([]byte, *rpcError) {
		if s.timeoutMS != 0 {
			asked.deadline = time.Now().Add(time.Duration(s.timeoutMS) * time.Millisecond)
		}
		started, err := w.startProcess(asked)
		if err != nil {
			return nil, failed(err)
		}
		if watch {
			w.after = newWatcher(started, w.connection, asked.encoding, nil).run
		}
		go w.attend(started, asked.prepared, w)
		return started.identified().integer("pid", int64(started.child.pid)).end(), nil
	}, nil
}

// identified begins an object that is about the process.
func (p *process) identified() object {
	return object(nil).text("id", []byte(p.id))
}

// told adds how the process ended, and how many bytes it put out. It must have finished.
func (p *process) told(o object) object {
	o = o.integer("exit_code", int64(p.child.exitCode()))
	o = o.ending(p.child.endedBy(), p.ending.timedOut, p.ending.oomKilled, p.ending.duration)
	p.lock.Lock()
	defer p.lock.Unlock()
	for _, s := range p.streams {
		o = o.integer(s.name, s.next)
	}
	return o
}

// running says whether the process has not finished.
func (p *process) running() bool {
	select {
	case <-p.finished:
		return false
	default:
		return true
	}
}

// named reads params with a process's id.
func (w *caller) named(params jsontext.Value, others ...field) (*process, *rpcError) {
	var id string
	if err := decodeParams(params, append(others, text("id", &id))...); err != nil {
		return nil, err
	}
	found := w.processes.find(id)
	if found == nil {
		return nil, &rpcError{code: codeInternal, message: "no process " + id, errno: errnoName(syscall.ESRCH)}
	}
	return found, nil
}

// processAttach is the method process.attach.
func (w *caller) processAttach(params jsontext.Value) (call, *rpcError) {
	offsets := map[string]*int64{"stdout": new(int64), "stderr": new(int64), "terminal": new(int64)}
	var fields []field
	given := map[string]int64{}
	for name, into := range offsets {
		f := optional(integer(name, into, 0, 1<<62))
		set := f.set
		f.set = func(value jsontext.Value) bool {
			valid := set(value)
			given[name] = *into
			return valid
		}
		fields = append(fields, f)
	}
	var chosen string
	p, err := w.named(params, optional(nested("offsets", fields...)), encoding(&chosen))
	if err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		streams := object(nil)
		p.change(func() {
			for _, s := range p.streams {
				if _, asked := given[s.name]; !asked {
					given[s.name] = s.oldest
				}
				state := object(nil).integer("oldest", s.oldest).integer("next", s.next).end()
				streams = streams.value(s.name, state)
			}
		})
		w.after = newWatcher(p, w.connection, chosen, given).run
		result := p.identified().integer("pid", int64(p.child.pid)).boolean("running", p.running())
		return result.value("streams", streams.end()).end(), nil
	}, nil
}

// simple is a method that does something short to a process, and has no result.
func (w *caller) simple(params jsontext.Value, do func(*process) error, fields ...field) (call, *rpcError) {
	p, err := w.named(params, fields...)
	if err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		if err := do(p); err != nil {
			return nil, failed(err)
		}
		return nothing, nil
	}, nil
}

// processDetach is the method process.detach.
func (w *caller) processDetach(params jsontext.Value) (call, *rpcError) {
	return w.simple(params, func(p *process) error {
		p.lock.Lock()
		watching := p.watchers[w.connection]
		p.lock.Unlock()
		if watching != nil {
			watching.stop()
		}
		return nil
	})
}

// processSignal is the method process.signal.
func (w *caller) processSignal(params jsontext.Value) (call, *rpcError) {
	var name string
	var all bool
	return w.simple(params, func(p *process) error {
		number, known := parseSignal(name)
		if !known {
			return syscall.EINVAL
		}
		return w.signal(p, number, all)
	}, textOrNumber("signal", &name), optional(boolean("all", &all)))
}

// processKill is the method process.kill.
func (w *caller) processKill(params jsontext.Value) (call, *rpcError) {
	return w.simple(params, func(p *process) error {
		// One that has ended is as it shall be.
		_ = w.signal(p, syscall.SIGKILL, true)
		return nil
	})
}

// processResize is the method process.resize.
func (w *caller) processResize(params jsontext.Value) (call, *rpcError) {
	var rows, columns int64
	return w.simple(params, func(p *process) error {
		p.writing.Lock()
		defer p.writing.Unlock()
		if !p.terminal {
			return syscall.ENOTTY
		}
		if p.input == nil {
			return syscall.ESRCH
		}
		return resizeTerminal(p.input, rows, columns)
	}, integer("rows", &rows, 1, terminalMost), integer("columns", &columns, 1, terminalMost))
}

// processForget is the method process.forget.
func (w *caller) processForget(params jsontext.Value) (call, *rpcError) {
	return w.simple(params, func(p *process) error {
		if p.running() {
			return syscall.EBUSY
		}
		w.processes.forget(p)
		return nil
	})
}

// processWait is the method process.wait.
func (w *caller) processWait(params jsontext.Value) (call, *rpcError) {
	timeout := int64(-1)
	p, err := w.named(params, optional(integer("timeout_ms", &timeout, 0, maxTimeoutMS)))
	if err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		var over <-chan time.Time
		if timeout >= 0 {
			timer := time.NewTimer(time.Duration(timeout) * time.Millisecond)
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-p.finished:
		case <-over:
		case <-w.cancelled:
		case <-w.connection.lost:
		}
		if p.running() {
			return object(nil).boolean("running", true).end(), nil
		}
		return p.told(object(nil).boolean("running", false)).end(), nil
	}, nil
}

// processStdin is the method process.stdin.
func (w *caller) processStdin(params jsontext.Value) (call, *rpcError) {
	var data, chosen string
	var closing bool
	p, err := w.named(params, text("data", &data), optional(boolean("close", &closing)), encoding(&chosen))
	if err != nil {
		return nil, err
	}
	content, err := decodeContent("data", data, chosen)
	if err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		written, err := p.write(content, closing, w.cancelled)
		if err != nil && written == 0 {
			return nil, failed(err)
		}
		return object(nil).integer("written", int64(min(written, len(content)))).end(), nil
	}, nil
}

// processList is the method process.list.
func (w *caller) processList(params jsontext.Value) (call, *rpcError) {
	if err := decodeParams(params); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		list := []byte{'['}
		for _, p := range w.processes.all() {
			if len(list) > 1 {
				list = append(list, ',')
			}
			item := p.identified().integer("pid", int64(p.child.pid)).text("command", []byte(p.command))
			item = item.boolean("running", p.running()).integer("age_ms", time.Since(p.began).Milliseconds())
			list = append(list, item.boolean("terminal", p.terminal).end()...)
		}
		return object(nil).value("processes", append(list, ']')).end(), nil
	}, nil
}

// all returns the processes in the order of their starts.
func (p *processes) all() []*process {
	p.lock.Lock()
	defer p.lock.Unlock()
	list := make([]*process, 0, len(p.known))
	for _, known := range p.known {
		list = append(list, known)
	}
	slices.SortFunc(list, func(a, b *process) int { return a.number - b.number })
	return list
}
