package main

import (
	"strconv"
	"syscall"
	"unsafe"
)

// secondsSinceBoot is the kernel's monotonic clock: near zero when the kernel started, as in its log.
func secondsSinceBoot() string {
	const clockMonotonic = 1
	var now syscall.Timespec
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0)
	return strconv.FormatFloat(float64(now.Nano())/1e9, 'f', 3, 64)
}
