package main

import (
	"strconv"
	"strings"
	"syscall"
)

// keepResident keeps the program's pages in memory once they are there. Where there is no memory left the
// kernel would drop them, the program being on a disk, and each step of the agent would wait for a page.
// What it holds beside them the kernel cannot drop without swap. Who may not do so goes without.
func keepResident() {
	content, err := readRegular("/proc/self/maps", smallFile)
	if err != nil {
		return
	}
	const onFault = 1 // MLOCK_ONFAULT, mlock(2)
	for line := range strings.Lines(string(content)) {
		// start-end permissions offset device inode path: proc(5). Only a file has an inode.
		columns := strings.Fields(line)
		if len(columns) < 6 || columns[4] == "0" {
			continue
		}
		from, to, _ := strings.Cut(columns[0], "-")
		start, failure := strconv.ParseUint(from, 16, 64)
		end, failed := strconv.ParseUint(to, 16, 64)
		if failure == nil && failed == nil {
			_, _, _ = syscall.Syscall(sysMlock2, uintptr(start), uintptr(end-start), onFault)
		}
	}
}
