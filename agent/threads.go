package main

import (
	"runtime"
	"sync/atomic"
	"syscall"
)

// threadReserve is how many threads the program keeps for system calls that block: reading a file, or
// starting a program. (What waits for a connection, a pipe or a child needs none.)
const threadReserve = 12

// reserveThreads has the runtime start threads before they are needed, which it never ends. Where the
// machine has no room for another process it could not start one, and would end the program.
func reserveThreads() {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return
	}
	var blocked, done atomic.Int32
	for range threadReserve {
		go func() {
			blocked.Add(1)
			_, _ = readAgain(ends[0], make([]byte, 1)) // in a blocking system call: the thread is taken
			if done.Add(1) == threadReserve {
				syscall.Close(ends[0])
			}
		}()
	}
	for blocked.Load() < threadReserve {
		runtime.Gosched()
	}
	syscall.Close(ends[1])
}
