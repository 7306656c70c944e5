package main

import (
	"os"
	"syscall"
	"time"
)

// startMonitor starts a process that watches over an agent which runs already. It has the listening socket
// open as well, so that whoever connects while no agent runs waits, and is answered by the next.
func startMonitor(agent earlyAgent) error {
	_, err := forkOwn([]string{"--monitor"}, uintptr(agent.listening), agent.lifeline.Fd())
	agent.release()
	return err
}

// monitor starts the agent again whenever it has crashed, until one was succeeded or asked to end. It gives
// up, and the socket with it, where agents crash too often. It returns its exit status.
func monitor(chosen options) int {
	listening, lifeline := inherit(chosen.address)
	arguments := []string{"--listen", chosen.address}
	if chosen.handover != "" {
		arguments = append(arguments, "--handover", chosen.handover)
	}
	var starts startLimit
	var err error
	pid := 0 // the first agent is its parent's child, as this process is
	for !isOver(lifeline) {
		lifeline.Close()
		report("the agent has crashed" + reap(pid))
		for started := false; !started; started = err == nil {
			if !starts.take(time.Now()) {
				report("the agent is not started any more: that fails too often")
				return 1
			}
			if len(starts) > 1 {
				time.Sleep(agentPause)
			}
			if pid, lifeline, err = forkAgent(int(listening.file.Fd()), arguments...); err != nil {
				report(err.Error())
			}
		}
	}
	return 0
}

// isOver waits for an agent's end, and says whether there is to be no other.
func isOver(lifeline *os.File) bool {
	said := make([]byte, 1)
	for {
		if n, err := lifeline.Read(said); n == 0 || err != nil {
			return false
		}
		if said[0] == saidOver {
			return true
		}
	}
}

// reap collects a child that has ended, or is about to, and says how it did. 0 is none.
func reap(pid int) string {
	var status syscall.WaitStatus
	for pid != 0 {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			return describe(status)
		}
	}
	return ""
}
