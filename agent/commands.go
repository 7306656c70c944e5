package main

import (
	"encoding/json/jsontext"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// The most bytes of a stream that a result holds, if a host asks for it, and the longest time a command
// may be given.
const (
	maxOutputLimit = 16 << 20
	maxTimeoutMS   = 1 << 40
)

// outcome is what a command left behind.
type outcome struct {
	exitCode       int
	stdout, stderr []byte
	signal         string // the name of what ended it, or ""
	timedOut       bool
	truncated      bool
	oomKilled      bool
	duration       time.Duration
}

// spawnFailed is the exit code of a command that could not be started; stderr says why.
const spawnFailed = -1

// result returns the outcome as a request without options gets it.
func (o outcome) result() object {
	return object(nil).integer("exit_code", int64(o.exitCode)).text("stdout", o.stdout).text("stderr", o.stderr)
}

// detailed returns the outcome as a request with options gets it.
func (o outcome) detailed(encoding string) object {
	result := object(nil).integer("exit_code", int64(o.exitCode)).bytes("stdout", o.stdout, encoding).
		bytes("stderr", o.stderr, encoding).boolean("truncated", o.truncated)
	return result.ending(o.signal, o.timedOut, o.oomKilled, o.duration)
}

// ending adds how a command or a process ended.
func (o object) ending(signal string, timedOut, oomKilled bool, duration time.Duration) object {
	if signal == "" {
		o = o.value("signal", []byte("null"))
	} else {
		o = o.text("signal", []byte(signal))
	}
	o = o.boolean("timed_out", timedOut).boolean("oom_killed", oomKilled)
	return o.integer("duration_ms", duration.Milliseconds())
}

func failedSpawn(reason string) outcome {
	return outcome{exitCode: spawnFailed, stderr: []byte(reason)}
}

// settings are what a command or a process may be given beside what runs.
type settings struct {
	given     bool // any of them
	args      []string
	cwd       string
	variables []string
	user      string
	timeoutMS int64
	tie       bool
	encoding  string
}

// fields returns the parameters of all settings.
func (s *settings) fields(others ...field) []field {
	all := append(others, optional(textList("args", &s.args)), optional(text("cwd", &s.cwd)),
		optional(variables("env", &s.variables)), optional(textOrNumber("user", &s.user)),
		optional(integer("timeout_ms", &s.timeoutMS, 1, maxTimeoutMS)), optional(boolean("tie", &s.tie)),
		encoding(&s.encoding))
	for i, f := range all {
		if !f.required {
			all[i].set = func(value jsontext.Value) bool {
				s.given = true
				return f.set(value)
			}
		}
	}
	return all
}

// prepared is a command that can be started.
type prepared struct {
	settings
	argv        []string
	directory   string
	environment []string
	credential  *syscall.Credential
	stdin       []byte
	maxOutput   int
	deadline    time.Time // zero: none
}

// prepare fills in what follows from the settings.
func (s *settings) prepare() (prepared, *rpcError) {
	user, failure := wantedAccount(s.user)
	if failure != nil {
		return prepared{}, failure
	}
	p := prepared{settings: *s, maxOutput: outputLimit, credential: user.credential()}
	p.directory, p.environment = surroundings(user)
	p.environment = withVariables(p.environment, s.variables)
	if s.cwd != "" {
		if s.cwd[0] != '/' {
			s.cwd = p.directory + "/" + s.cwd
		}
		p.directory = s.cwd
	}
	return p, nil
}

// decodeCommand reads the params of exec and exec_code.
func decodeCommand(params jsontext.Value, others ...field) (prepared, *rpcError) {
	var s settings
	var stdin string
	maxOutput := int64(outputLimit)
	others = append(others, optional(text("stdin", &stdin)),
		optional(integer("max_output", &maxOutput, 0, maxOutputLimit)))
	if err := decodeParams(params, s.fields(others...)...); err != nil {
		return prepared{}, err
	}
	content, failure := decodeContent("stdin", stdin, s.encoding)
	if failure != nil {
		return prepared{}, failure
	}
	p, failure := s.prepare()
	p.stdin, p.maxOutput = content, int(maxOutput)
	return p, failure
}

// running returns the call that runs a command.
func (w *caller) running(p prepared, run func(prepared, *caller) outcome) call {
	return func() ([]byte, *rpcError) {
		if p.timeoutMS != 0 {
			p.deadline = time.Now().Add(time.Duration(p.timeoutMS) * time.Millisecond)
		}
		o := run(p, w)
		if !p.given {
			return o.result().end(), nil
		}
		return o.detailed(p.encoding).end(), nil
	}
}

// exec is the method of that name: a command line for `sh -c`.
func (w *caller) exec(params jsontext.Value) (call, *rpcError) {
	var line string
	p, err := decodeCommand(params, text("cmd", &line))
	if err != nil {
		return nil, err
	}
	p.argv = shell(line, p.args)
	return w.running(p, w.execute), nil
}

// shell returns the command line of a shell that runs a line, with its positional parameters.
func shell(line string, args []string) []string {
	if len(args) == 0 {
		return []string{"sh", "-c", line}
	}
	return append([]string{"sh", "-c", line, "sh"}, args...)
}

// interpreters are the languages whose code is an argument of a program. Linux limits an argument to
// 131,071 bytes: longer code fails to spawn.
var interpreters = map[string][2]string{
	"python":     {"python3", "-c"},
	"python3":    {"python3", "-c"},
	"node":       {"node", "-e"},
	"javascript": {"node", "-e"},
	"js":         {"node", "-e"},
	"bash":       {"bash", "-c"},
	"sh":         {"sh", "-c"},
}

// execCode is the method exec_code: a program's source in a language.
func (w *caller) execCode(params jsontext.Value) (call, *rpcError) {
	var language, code string
	p, err := decodeCommand(params, text("lang", &language), text("code", &code))
	if err != nil {
		return nil, err
	}
	if language == "rust" {
		return w.running(p, func(p prepared, w *caller) outcome { return w.runRust(code, p) }), nil
	}
	interpreter, known := interpreters[language]
	if !known {
		return w.running(p, func(prepared, *caller) outcome { return failedSpawn("unsupported language: " + language) }), nil
	}
	p.argv = []string{interpreter[0], interpreter[1], code}
	if interpreter[0] == language && len(p.args) > 0 {
		// A shell takes the first argument as its own name.
		p.argv = append(p.argv, language)
	}
	p.argv = append(p.argv, p.args...)
	return w.running(p, w.execute), nil
}

// runRust compiles a program in a directory of its own and runs it. What the compiler says is the
// outcome only if it fails.
func (w *caller) runRust(code string, p prepared) outcome {
	directory, err := os.MkdirTemp("/tmp", "bouvet-rust-")
	if err != nil {
		return failedSpawn(err.Error())
	}
	defer os.RemoveAll(directory)
	source, program := filepath.Join(directory, "main.rs"), filepath.Join(directory, "main")
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		return failedSpawn(err.Error())
	}
	// The program's user may enter the directory.
	if err := os.Chmod(directory, newDirectoryMode); err != nil {
		return failedSpawn(err.Error())
	}
	compiler := p
	compiler.argv = []string{"rustc", "--edition=2021", "-o", program, source}
	compiler.credential, compiler.stdin = nil, nil
	if compiled := w.execute(compiler, w); compiled.exitCode != 0 {
		return compiled
	}
	p.argv = append([]string{program}, p.args...)
	return w.execute(p, w)
}

// run runs a program without any settings.
func (a *agent) run(argv ...string) outcome {
	directory, environment := surroundings(currentAccount())
	return a.execute(prepared{argv: argv, directory: directory, environment: environment, maxOutput: outputLimit}, nil)
}

// execute starts a program and waits for its end. Its streams are read to their end; if another process
// still holds them open then, for pipeGrace more.
func (a *agent) execute(p prepared, w *caller) outcome {
	program, err := findProgram(p.argv[0], p.environment)
	if err != nil {
		return failedSpawn(p.argv[0] + ": not found in PATH")
	}
	started := time.Now()
	l := launch{program: program, argv: p.argv, environment: p.environment, directory: p.directory, credential: p.credential}
	var group *cgroup
	if p.given {
		// What only a command with settings can be asked for takes a control group of its own.
		group = a.groups.take()
		defer a.groups.give(group)
	}
	if l.group = group; group == nil {
		l.group = a.groups.shared()
	}
	command, captures, err := a.spawn(l, p)
	if err != nil {
		return failedSpawn(p.argv[0] + ": " + err.Error())
	}
	timedOut := a.await(command, group, p, w)
	duration := time.Since(started)
	grace := time.Now().Add(pipeGrace)
	for _, c := range captures {
		// It fails where the stream is at its end already.
		_ = c.pipe.SetReadDeadline(grace)
	}
	// In base64 every byte is one of the command's: no mark says that there were more.
	plain := p.encoding == encodingBase64
	o := outcome{exitCode: command.exitCode(), signal: command.endedBy(), timedOut: timedOut, duration: duration}
	o.stdout, o.stderr = captures[0].text(plain), captures[1].text(plain)
	o.truncated = captures[0].cut() || captures[1].cut()
	o.oomKilled = group.oomKilled()
	return o
}

// await waits for a command's end, or brings it about: when its time is over, its request is cancelled,
// or the connection that it is tied to is gone. It says whether its time was over.
func (a *agent) await(command *child, group *cgroup, p prepared, w *caller) (timedOut bool) {
	var over <-chan time.Time
	var stop, gone <-chan struct{}
	if !p.deadline.IsZero() {
		timer := time.NewTimer(time.Until(p.deadline))
		defer timer.Stop()
		over = timer.C
	}
	if w != nil {
		stop = w.cancelled
		if p.tie {
			gone = w.connection.lost
		}
	}
	select {
	case <-command.ended:
		return false
	case <-over:
		timedOut = true
	case <-stop:
	case <-gone:
	}
	a.kill(command, group)
	<-command.ended
	return timedOut
}

// kill ends a command with all that it has started.
func (a *agent) kill(command *child, group *cgroup) {
	if group != nil {
		group.kill()
		return
	}
	signalSession(command.pid, syscall.SIGKILL)
}

func (a *agent) spawn(l launch, p prepared) (*child, [2]*capture, error) {
	var opened [6]*os.File // the child's three streams, and the other ends
	closeAll := func(files []*os.File) {
		for _, file := range files {
			if file != nil {
				file.Close()
			}
		}
	}
	var err error
	if len(p.stdin) > 0 {
		opened[0], opened[5], err = inputPipe()
	} else {
		opened[0], err = os.Open(os.DevNull)
	}
	if err == nil {
		if opened[3], opened[1], err = pipe(); err == nil {
			opened[4], opened[2], err = pipe()
		}
	}
	var command *child
	if err == nil {
		l.streams = [3]*os.File(opened[:3])
		command, err = a.children.start(l)
	}
	closeAll(opened[:3])
	if err != nil {
		closeAll(opened[3:])
		return nil, [2]*capture{}, err
	}
	if input := opened[5]; input != nil {
		go feed(input, p.stdin, command)
	}
	return command, [2]*capture{startCapture(opened[3], p.maxOutput), startCapture(opened[4], p.maxOutput)}, nil
}

// feed writes a command's standard input, until the command has ended.
func feed(input *os.File, content []byte, command *child) {
	_, _ = writeUntil(input, content, command.ended, nil)
	input.Close()
}

// pipe returns a pipe whose reading end waits in the runtime's poller, and whose writing end is an
// ordinary blocking one for a child.
func pipe() (reader, writer *os.File, err error) {
	return pipeWithPolled(0)
}

// inputPipe returns a pipe whose writing end waits in the runtime's poller.
func inputPipe() (reader, writer *os.File, err error) {
	return pipeWithPolled(1)
}

func pipeWithPolled(end int) (reader, writer *os.File, err error) {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := syscall.SetNonblock(ends[end], true); err != nil {
		syscall.Close(ends[0])
		syscall.Close(ends[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(ends[0]), "pipe"), os.NewFile(uintptr(ends[1]), "pipe"), nil
}
