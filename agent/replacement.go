package main

import (
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	// temporaryFile is O_TMPFILE of open(2): a file without a name, which nothing stays of.
	temporaryFile = 0x400000 | syscall.O_DIRECTORY
	// At these the kernel starts from the working directory, and follows a link: linkat(2).
	atWorkingDirectory = -100
	atFollow           = 0x400
	atNoFollow         = 0x100
)

// replacement is a new content of a file, or a new file. Nobody sees it until it takes the name.
type replacement struct {
	fd        int
	path      string // of the file that it replaces
	temporary string // its own until then; "" while it has none
}

// beginReplacement makes a file in the directory of another.
//
//	old: what is replaced, whose owner and mode the new file gets; nil if there is nothing.
//	mode: the permissions of a new file; nil for the usual ones. They count for an old one too.
func beginReplacement(path string, old *syscall.Stat_t, mode *uint32) (*replacement, error) {
	r := &replacement{path: path}
	directory := filepath.Dir(path)
	var err error
	if r.fd, err = openAgain(directory, syscall.O_WRONLY|temporaryFile, newFileMode); err != nil {
		// Not every file system knows files without a name.
		r.temporary = r.newName()
		const flags = syscall.O_WRONLY | syscall.O_CREAT | syscall.O_EXCL | syscall.O_NOFOLLOW
		if r.fd, err = openAgain(r.temporary, flags, newFileMode); err != nil {
			return nil, &os.PathError{Op: "create a file in", Path: directory, Err: err}
		}
	}
	if old != nil {
		err = syscall.Fchown(r.fd, int(old.Uid), int(old.Gid))
	}
	// The mode last: a change of owner clears setuid.
	switch {
	case err != nil:
	case mode != nil:
		err = syscall.Fchmod(r.fd, *mode)
	case old != nil:
		err = syscall.Fchmod(r.fd, old.Mode&0o7777)
	}
	if err != nil {
		r.abandon()
		return nil, &os.PathError{Op: "set owner and mode of what replaces", Path: path, Err: err}
	}
	return r, nil
}

func (r *replacement) newName() string {
	return filepath.Join(filepath.Dir(r.path), temporaryName())
}

var temporaryFiles atomic.Uint32

// temporaryName returns a name that no other file of this agent has.
func temporaryName() string {
	number := strconv.FormatUint(uint64(temporaryFiles.Add(1)), 36)
	return ".bouvet-" + strconv.Itoa(os.Getpid()) + "-" + number
}

// commit gives the file its name, in place of what has it. The replacement is over either way.
func (r *replacement) commit() error {
	var err error
	if r.temporary == "" {
		name := r.newName()
		if err = linkDescriptor(r.fd, name); err == nil {
			r.temporary = name
		}
	}
	if err == nil {
		err = syscall.Rename(r.temporary, r.path)
	}
	if err != nil {
		r.abandon()
		return &os.PathError{Op: "replace", Path: r.path, Err: err}
	}
	// An error that is told only now, as by a network file system, comes too late to keep the old file.
	if err := syscall.Close(r.fd); err != nil {
		return &os.PathError{Op: "close", Path: r.path, Err: err}
	}
	return nil
}

// abandon leaves nothing of the replacement.
func (r *replacement) abandon() {
	syscall.Close(r.fd)
	if r.temporary != "" {
		_ = syscall.Unlink(r.temporary)
	}
}

// linkDescriptor gives an open file without a name one.
func linkDescriptor(fd int, path string) error {
	return linkAt(atWorkingDirectory, descriptorPath(fd), atWorkingDirectory, path, atFollow)
}

func linkAt(oldDirectory int, old string, newDirectory int, name string, flags int) error {
	from, err := syscall.BytePtrFromString(old)
	if err != nil {
		return err
	}
	to, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, number := syscall.Syscall6(syscall.SYS_LINKAT, uintptr(oldDirectory), uintptr(unsafe.Pointer(from)),
		uintptr(newDirectory), uintptr(unsafe.Pointer(to)), uintptr(flags), 0)
	if number != 0 {
		return number
	}
	return nil
}
