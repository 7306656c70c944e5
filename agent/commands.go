package main

import (
	"encoding/json/jsontext"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// outcome is what a command left behind.
type outcome struct {
	exitCode       int
	stdout, stderr []byte
}

// spawnFailed is the exit code of a command that could not be started; stderr says why.
const spawnFailed = -1

func (o outcome) result() []byte {
	return object(nil).integer("exit_code", int64(o.exitCode)).text("stdout", o.stdout).text("stderr", o.stderr).end()
}

func failedSpawn(reason string) outcome {
	return outcome{exitCode: spawnFailed, stderr: []byte(reason)}
}

// exec is the method of that name: a command line for `sh -c`.
func (a *agent) exec(params jsontext.Value) (call, *rpcError) {
	var command string
	if err := decodeParams(params, text("cmd", &command)); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		return a.run("sh", "-c", command).result(), nil
	}, nil
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
func (a *agent) execCode(params jsontext.Value) (call, *rpcError) {
	var language, code string
	if err := decodeParams(params, text("lang", &language), text("code", &code)); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		if language == "rust" {
			return a.runRust(code).result(), nil
		}
		interpreter, known := interpreters[language]
		if !known {
			return failedSpawn("unsupported language: " + language).result(), nil
		}
		return a.run(interpreter[0], interpreter[1], code).result(), nil
	}, nil
}

// runRust compiles a program in a directory of its own and runs it. What the compiler says is the
// outcome only if it fails.
func (a *agent) runRust(code string) outcome {
	directory, err := os.MkdirTemp("/tmp", "bouvet-rust-")
	if err != nil {
		return failedSpawn(err.Error())
	}
	defer os.RemoveAll(directory)
	source, program := filepath.Join(directory, "main.rs"), filepath.Join(directory, "main")
	if err := os.WriteFile(source, []byte(code), 0o600); err != nil {
		return failedSpawn(err.Error())
	}
	if compiled := a.run("rustc", "--edition=2021", "-o", program, source); compiled.exitCode != 0 {
		return compiled
	}
	return a.run(program)
}

// run starts a program, with nothing on its standard input, and waits for its end. Its streams are
// read to their end; if another process still holds them open then, for pipeGrace more.
func (a *agent) run(argv ...string) outcome {
	directory, environment := surroundings()
	program, err := findProgram(argv[0], environment)
	if err != nil {
		return failedSpawn(argv[0] + ": not found in PATH")
	}
	command, captures, err := a.spawn(program, argv, environment, directory)
	if err != nil {
		return failedSpawn(argv[0] + ": " + err.Error())
	}
	<-command.ended
	deadline := time.Now().Add(pipeGrace)
	for _, c := range captures {
		// It fails where the stream is at its end already.
		_ = c.pipe.SetReadDeadline(deadline)
	}
	return outcome{command.exitCode(), captures[0].text(), captures[1].text()}
}

func (a *agent) spawn(program string, argv, environment []string, directory string) (*child, [2]*capture, error) {
	var opened [5]*os.File // the child's three streams, and the ends to read from
	closeAll := func(files []*os.File) {
		for _, file := range files {
			if file != nil {
				file.Close()
			}
		}
	}
	var err error
	if opened[0], err = os.Open(os.DevNull); err == nil {
		if opened[3], opened[1], err = pipe(); err == nil {
			opened[4], opened[2], err = pipe()
		}
	}
	var command *child
	if err == nil {
		command, err = a.children.start(program, argv, environment, directory, [3]*os.File(opened[:3]))
	}
	closeAll(opened[:3])
	if err != nil {
		closeAll(opened[3:])
		return nil, [2]*capture{}, err
	}
	return command, [2]*capture{startCapture(opened[3]), startCapture(opened[4])}, nil
}

// pipe returns a pipe whose reading end waits in the runtime's poller, and whose writing end is an
// ordinary blocking one for a child.
func pipe() (reader, writer *os.File, err error) {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := syscall.SetNonblock(ends[0], true); err != nil {
		syscall.Close(ends[0])
		syscall.Close(ends[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(ends[0]), "pipe"), os.NewFile(uintptr(ends[1]), "pipe"), nil
}
