package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// setClock sets the time of day, and returns how far it went forward, in nanoseconds.
func setClock(nanoseconds int64) (int64, error) {
	const clockRealtime = 0
	wanted := syscall.NsecToTimespec(nanoseconds)
	step := nanoseconds - time.Now().UnixNano()
	_, _, number := syscall.Syscall(syscall.SYS_CLOCK_SETTIME, clockRealtime, uintptr(unsafe.Pointer(&wanted)), 0)
	if number != 0 {
		return 0, os.NewSyscallError("clock_settime", number)
	}
	return step, nil
}

// uptime is the time since the kernel began, the time that the machine was suspended included.
func uptime() time.Duration { return readClock(7) } // CLOCK_BOOTTIME

// monotonic is the same without that time.
func monotonic() time.Duration { return readClock(1) } // CLOCK_MONOTONIC

func readClock(clock uintptr) time.Duration {
	var now syscall.Timespec
	_, _, _ = syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&now)), 0)
	return time.Duration(now.Nano())
}

const (
	// entropyLimit is the most bytes that the kernel is given at once.
	entropyLimit = 4096
	// The requests of random(4): RNDADDENTROPY, _IOW('R', 3, int[2]), and RNDRESEEDCRNG, _IO('R', 7).
	randomAddEntropy = 0x40085203
	randomReseed     = 0x5207
)

// entropyPool is struct rand_pool_info of <linux/random.h> with its bytes.
type entropyPool struct {
	bits  int32
	bytes int32
	pool  [entropyLimit]byte
}

const _ = -(unsafe.Sizeof(entropyPool{}) ^ (8 + entropyLimit))

// addEntropy gives the kernel random bytes that nobody else has, counts them as such, and has all that
// it gives out from now on depend on them.
func addEntropy(random []byte) error {
	device, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	pool := entropyPool{bits: int32(8 * len(random)), bytes: int32(len(random))}
	copy(pool.pool[:], random)
	fd := int(device.Fd())
	if err := controlDevice(fd, randomAddEntropy, unsafe.Pointer(&pool)); err != nil {
		return os.NewSyscallError("RNDADDENTROPY", err)
	}
	if err := controlDevice(fd, randomReseed, nil); err != nil {
		return os.NewSyscallError("RNDRESEEDCRNG", err)
	}
	return nil
}

func controlDevice(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, number := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); number != 0 {
		return number
	}
	return nil
}
