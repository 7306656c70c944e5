package main

import (
	"os"
	"runtime"
	"slices"
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
	passwd, _ := readRegular("/etc/passwd", contentLimit)
	if user, known := accountIn(string(passwd), nameOrNumber); known {
		return user, true
	}
	number, numeric := parseID(nameOrNumber)
	return account{nameOrNumber, "/", "/bin/sh", number, number}, numeric
}

// accountIn finds a user in passwd(5)'s text: the one of the name, else the first of the number.
func accountIn(passwd, nameOrNumber string) (found account, known bool) {
	number, numeric := parseID(nameOrNumber)
	eachEntry(passwd, 7, func(columns []string) bool {
		uid, validUID := parseID(columns[2])
		gid, validGID := parseID(columns[3])
		named := columns[0] == nameOrNumber
		if !validUID || !validGID || !named && (known || !numeric || uid != number) {
			return true
		}
		found, known = account{columns[0], columns[5], columns[6], uid, gid}, true
		if found.shell == "" {
			found.shell = "/bin/sh"
		}
		return !named
	})
	return found, known
}

// groupsIn returns the groups that a user has by group(5)'s text. The own one is listed as well: a
// set-group-ID program cannot drop what only it has.
func (a account) groupsIn(group string) []uint32 {
	groups := []uint32{a.gid}
	eachEntry(group, 4, func(columns []string) bool {
		gid, valid := parseID(columns[2])
		member := a.name != "" && slices.Contains(strings.Split(columns[3], ","), a.name)
		if valid && member && gid != a.gid {
			groups = append(groups, gid)
		}
		return true
	})
	return groups
}

// credential returns what a process of the user's gets; nil if it is the agent's own user.
func (a account) credential() *syscall.Credential {
	if int(a.uid) == syscall.Getuid() && int(a.gid) == syscall.Getgid() {
		return nil
	}
	group, _ := readRegular("/etc/group", contentLimit)
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groupsIn(string(group))}
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

// eachEntry visits the lines of passwd(5) or group(5) that have so many columns, until visit says no.
func eachEntry(content string, columns int, visit func([]string) bool) {
	for line := range strings.Lines(content) {
		if entry := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(entry) == columns && !visit(entry) {
			return
		}
	}
}

func parseID(text string) (uint32, bool) {
	value, err := strconv.ParseUint(text, 10, 32)
	return uint32(value), err == nil
}
