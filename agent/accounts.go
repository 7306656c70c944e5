package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// account is a user of passwd(5).
type account struct {
	name, home, shell string
	uid, gid          uint32
}

// currentAccount is who the agent runs as.
func currentAccount() account {
	user, found := findAccount(strconv.Itoa(syscall.Getuid()))
	if !found {
		user = account{"root", "/root", "/bin/sh", uint32(syscall.Getuid()), uint32(syscall.Getgid())}
	}
	return user
}

// wantedAccount is who a parameter names; "" is who the agent runs as.
func wantedAccount(nameOrNumber string) (account, *rpcError) {
	if nameOrNumber == "" {
		return currentAccount(), nil
	}
	user, found := findAccount(nameOrNumber)
	if !found {
		return user, invalidParams("there is no user " + nameOrNumber)
	}
	return user, nil
}

// findAccount finds a user by name, or by number; a number that no user has is an account of its own.
func findAccount(nameOrNumber string) (account, bool) {
	var numbered account
	for columns := range columnsOf("/etc/passwd", 7) {
		uid, uidErr := strconv.ParseUint(columns[2], 10, 32)
		gid, gidErr := strconv.ParseUint(columns[3], 10, 32)
		if uidErr != nil || gidErr != nil {
			continue
		}
		user := account{columns[0], columns[5], columns[6], uint32(uid), uint32(gid)}
		if user.shell == "" {
			user.shell = "/bin/sh"
		}
		if columns[0] == nameOrNumber {
			return user, true
		}
		if columns[2] == nameOrNumber && numbered.name == "" {
			numbered = user
		}
	}
	if numbered.name != "" {
		return numbered, true
	}
	number, err := strconv.ParseUint(nameOrNumber, 10, 32)
	return account{nameOrNumber, "/", "/bin/sh", uint32(number), uint32(number)}, err == nil
}

// credential returns what a process of the user's gets; nil if it is the agent's own user.
func (a account) credential() *syscall.Credential {
	if int(a.uid) == syscall.Getuid() && int(a.gid) == syscall.Getgid() {
		return nil
	}
	groups := []uint32{a.gid}
	for columns := range columnsOf("/etc/group", 4) {
		gid, err := strconv.ParseUint(columns[2], 10, 32)
		if err != nil || uint32(gid) == a.gid {
			continue
		}
		for member := range strings.SplitSeq(columns[3], ",") {
			if member == a.name {
				groups = append(groups, uint32(gid))
				break
			}
		}
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: groups}
}

// doing does something to files as the user: what it makes is the user's, and what the user may not, it
// may not either.
func (a account) doing(do func() error) error {
	credential := a.credential()
	if credential == nil {
		return do()
	}
	done := make(chan error)
	go func() {
		// The thread is never unlocked: it ends with this, and what it has become with it.
		runtime.LockOSThread()
		err := becomeForFiles(credential)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// becomeForFiles makes the thread, and none of the others, another user where files are concerned:
// setfsuid(2), with which the kernel takes the superuser's capabilities over files from it.
func becomeForFiles(who *syscall.Credential) error {
	groups := who.Groups
	if _, _, number := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(groups)),
		uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); number != 0 {
		return os.NewSyscallError("setgroups", number)
	}
	const ask = ^uintptr(0) // an id that nobody has: the present one is returned, and stays
	for _, change := range []struct {
		call uintptr
		id   uint32
	}{{syscall.SYS_SETFSGID, who.Gid}, {syscall.SYS_SETFSUID, who.Uid}} {
		_, _, _ = syscall.RawSyscall(change.call, uintptr(change.id), 0, 0)
		if now, _, _ := syscall.RawSyscall(change.call, ask, 0, 0); uint32(now) != change.id {
			return os.NewSyscallError("setfsuid", syscall.EPERM)
		}
	}
	return nil
}

// columnsOf yields the lines of a file like passwd(5) that have so many columns.
func columnsOf(path string, count int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		content, err := readRegular(path, contentLimit)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(content)) {
			columns := strings.Split(strings.TrimSuffix(line, "\n"), ":")
			if len(columns) == count && !yield(columns) {
				return
			}
		}
	}
}
