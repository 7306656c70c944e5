package main

import (
	"strconv"
	"strings"
	"syscall"
)

// lastSignal is the highest number of a signal: SIGRTMAX.
const lastSignal = 64

// signalNames are those of signal(7), the same on all architectures that the agent is built for.
var signalNames = map[syscall.Signal]string{
	syscall.SIGHUP: "HUP", syscall.SIGINT: "INT", syscall.SIGQUIT: "QUIT", syscall.SIGILL: "ILL",
	syscall.SIGTRAP: "TRAP", syscall.SIGABRT: "ABRT", syscall.SIGBUS: "BUS", syscall.SIGFPE: "FPE",
	syscall.SIGKILL: "KILL", syscall.SIGUSR1: "USR1", syscall.SIGSEGV: "SEGV", syscall.SIGUSR2: "USR2",
	syscall.SIGPIPE: "PIPE", syscall.SIGALRM: "ALRM", syscall.SIGTERM: "TERM", syscall.SIGSTKFLT: "STKFLT",
	syscall.SIGCHLD: "CHLD", syscall.SIGCONT: "CONT", syscall.SIGSTOP: "STOP", syscall.SIGTSTP: "TSTP",
	syscall.SIGTTIN: "TTIN", syscall.SIGTTOU: "TTOU", syscall.SIGURG: "URG", syscall.SIGXCPU: "XCPU",
	syscall.SIGXFSZ: "XFSZ", syscall.SIGVTALRM: "VTALRM", syscall.SIGPROF: "PROF", syscall.SIGWINCH: "WINCH",
	syscall.SIGIO: "IO", syscall.SIGPWR: "PWR", syscall.SIGSYS: "SYS",
}

// signalName returns SIGTERM for 15; a signal without a name of its own is SIG and its number.
func signalName(number syscall.Signal) string {
	if name, known := signalNames[number]; known {
		return "SIG" + name
	}
	return "SIG" + strconv.Itoa(int(number))
}

// parseSignal reads a name, with or without SIG, or a number.
func parseSignal(text string) (syscall.Signal, bool) {
	if number, err := strconv.Atoi(text); err == nil {
		return syscall.Signal(number), number >= 1 && number <= lastSignal
	}
	for number, name := range signalNames {
		if name == strings.TrimPrefix(text, "SIG") {
			return number, true
		}
	}
	return 0, false
}
