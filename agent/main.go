// Command bouvet-agent serves a host's requests inside a virtual machine: newline-delimited JSON-RPC
// 2.0 on vsock port 52, or on a Unix socket. As PID 1 it boots the machine, starts itself as such a
// server, and becomes the machine's own init.
package main

import (
	"os"
	"os/signal"
	"path"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Set by the build: the project's version and a digest of everything the binary was made of.
var (
	version      = "0"
	sourceDigest = "unknown"
)

const usage = `Usage: bouvet-agent [--listen ADDRESS] [--handover PATH] [--inherit] [--monitor] [--grow]
       bouvet-agent --version | --help

Serves a host's requests: newline-delimited JSON-RPC 2.0. As PID 1, started with none of these options,
it starts itself as such a server, and then becomes /sbin/init.

  --listen ADDRESS  vsock:PORT (default vsock:52) or unix:PATH
  --handover PATH   take the listening socket over from the agent that offers it at this Unix socket,
                    and then offer it there; the default with vsock:52 is /run/bouvet/agent.sock
  --inherit         the socket listens already: it is file descriptor 3; descriptor 4 is the writing
                    end of the life line, a pipe for "+" when connections are accepted, and "." when
                    that is over
  --monitor         do not serve, but start an agent with --inherit for the socket at descriptor 3 each
                    time that the life line, of which descriptor 4 is the reading end, breaks
  --grow            grow the root file system to its disk; the default with vsock:52
  --version         print the version and a digest of the source
  --help            print this
`

const (
	exitUsage = 2
	// stopGrace is how long running commands have after SIGTERM until they are killed.
	stopGrace = 2 * time.Second
	// heapGrowth keeps the heap of a few hundred kilobytes from growing to Go's usual 4 MB before it
	// is collected.
	heapGrowth = 20
)

type options struct {
	address  string
	handover string // the path of the socket for it, or ""
	inherit  bool
	monitor  bool
	grow     bool
}

// agent is what all connections share.
type agent struct {
	children    *children
	groups      cgroups
	processes   processes
	lock        sync.Mutex
	connections map[int]*connection // by their sockets
	idle        *idleConnections
	serving     sync.WaitGroup
}

func main() {
	if _, err := os.Stat(initramfsConfig); err == nil && os.Getpid() == 1 {
		halt(bootInitramfs())
	}
	if os.Getpid() == 1 && !hasOptions(os.Args) {
		halt(bootRoot())
	}
	if path.Base(os.Args[0]) == path.Base(defaultInit) && os.Getpid() != 1 {
		// Somebody asks the machine's init for another runlevel, which is up to the one that runs.
		if init := following(defaultInit); init != defaultInit {
			_ = syscall.Exec(init, os.Args, os.Environ())
		}
	}
	debug.SetGCPercent(heapGrowth)
	options, done := parseArguments(os.Args[1:])
	if done != nil {
		os.Exit(*done)
	}
	if options.monitor {
		os.Exit(monitor(options))
	}
	os.Exit(serve(options))
}

// hasOptions says whether the arguments are for this program, and not the kernel's for its init.
func hasOptions(arguments []string) bool {
	return len(arguments) > 1 && slices.Contains(
		[]string{"--listen", "--handover", "--inherit", "--monitor", "--grow", "--version", "--help"}, arguments[1])
}

// parseArguments returns the options, or the exit status if there is nothing more to do.
func parseArguments(arguments []string) (options, *int) {
	chosen := options{address: defaultAddress}
	success, failure := 0, exitUsage
	for i := 0; i < len(arguments); i++ {
		switch argument := arguments[i]; {
		case argument == "--version":
			os.Stdout.WriteString("bouvet-agent " + version + " (source " + sourceDigest + ")\n")
			return chosen, &success
		case argument == "--help":
			os.Stdout.WriteString(usage)
			return chosen, &success
		case argument == "--grow":
			chosen.grow = true
		case argument == "--inherit":
			chosen.inherit = true
		case argument == "--monitor":
			chosen.monitor = true
		case argument == "--listen" && i+1 < len(arguments):
			i++
			chosen.address = arguments[i]
		case argument == "--handover" && i+1 < len(arguments):
			i++
			chosen.handover = arguments[i]
		default:
			os.Stderr.WriteString("bouvet-agent: wrong argument: " + argument + "\n" + usage)
			return chosen, &failure
		}
	}
	if chosen.address == defaultAddress {
		chosen.grow = true
		if chosen.handover == "" {
			chosen.handover = defaultHandover
		}
	}
	return chosen, nil
}

// report writes one line to the log. It does so past the os package, which ends the process when the
// log's reader is gone.
func report(message string) {
	_ = writeAll(syscall.Stderr, []byte("bouvet-agent: "+message+"\n"))
}

// serve runs the agent until SIGTERM or SIGINT, or until a successor has taken over and the last client
// is gone. It returns its exit status.
func serve(chosen options) int {
	syscall.Umask(0o022)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	idle, err := newIdleConnections()
	if err != nil {
		report(err.Error())
		return 1
	}
	a := &agent{children: newChildren(), connections: map[int]*connection{}, idle: idle}
	go a.idle.serve(a)
	bound := make(chan *sockets, 1)
	go func() { bound <- openSockets(chosen) }()
	if chosen.grow && !chosen.inherit {
		go growRoot() // whether or not there will be vsock
	}
	select {
	case <-stop:
	case s := <-bound:
		if s == nil {
			return 1
		}
		report("listening on " + chosen.address)
		accepting := make(chan struct{})
		go func() {
			a.acceptAll(s.listening)
			close(accepting)
		}()
		s.say(saidReady)
		go func() {
			reserveThreads()
			close(a.children.threads)
			keepResident()
		}()
		if chosen.inherit && chosen.grow {
			go growRoot() // the machine's init and the first request wait already
		}
		select {
		case <-stop:
			s.say(saidOver)
			s.close()
		case <-s.handedOver:
			s.say(saidOver)
			s.release()
			<-accepting
			report("another agent accepts the connections now")
			select {
			case <-stop:
			case <-a.served():
				return 0
			}
		}
		<-accepting
	}
	a.end()
	return 0
}

// served returns what is closed when the last connection is, and the last process has ended. None may be
// accepted any more.
func (a *agent) served() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		a.serving.Wait()
		// What was started goes on; nobody else reads what it puts out.
		a.processes.pumping.Wait()
		close(done)
	}()
	return done
}

// acceptAll serves connections until the listener is closed.
func (a *agent) acceptAll(l *listener) {
	for {
		socket, err := l.accept()
		if err != nil {
			return
		}
		a.lock.Lock()
		full := len(a.connections) >= connectionLimit
		var c *connection
		if !full {
			c = newConnection(a, socket)
			a.connections[socket] = c
		}
		a.lock.Unlock()
		if full {
			syscall.Close(socket)
			continue
		}
		a.serving.Add(1)
		go c.receive()
	}
}

// forget closes a connection that has finished.
func (a *agent) forget(c *connection) {
	a.lock.Lock()
	delete(a.connections, c.socket)
	a.lock.Unlock()
	c.file.Close() // from here on, the socket's number may be another's
	a.serving.Done()
}

// end stops the commands that run, and waits until their requests are answered: not for long, since a
// client may have stopped reading.
func (a *agent) end() {
	a.children.end(syscall.SIGTERM)
	a.lock.Lock()
	for _, c := range a.connections {
		c.refuse()
	}
	a.lock.Unlock()
	select {
	case <-a.served():
	case <-time.After(stopGrace):
		a.children.end(syscall.SIGKILL)
	}
}
