package main

import (
	"archive/tar"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// attributePrefix begins the pax records that hold extended attributes.
const attributePrefix = "SCHILY.xattr."

// finish gives an open file what its header says: owner, mode, extended attributes and time. The order
// matters: a change of owner clears setuid and capabilities.
func (e *extraction) finish(fd int, header *tar.Header) error {
	path := descriptorPath(fd)
	if e.owners {
		if err := syscall.Chown(path, header.Uid, header.Gid); err != nil {
			return err
		}
	}
	if err := syscall.Chmod(path, uint32(header.Mode)&0o7777); err != nil {
		return err
	}
	if err := setAttributes(fd, header); err != nil {
		return err
	}
	return setTime(atWorkingDirectory, path, header.ModTime, 0)
}

func setAttributes(fd int, header *tar.Header) error {
	for record, value := range header.PAXRecords {
		name, is := strings.CutPrefix(record, attributePrefix)
		if !is {
			continue
		}
		if err := syscall.Setxattr(descriptorPath(fd), name, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// finishLink does the same for a symbolic link, which has no mode.
func (e *extraction) finishLink(parent int, base string, header *tar.Header) error {
	if e.owners {
		if err := syscall.Fchownat(parent, base, header.Uid, header.Gid, atNoFollow); err != nil {
			return err
		}
	}
	return setTime(parent, base, header.ModTime, atNoFollow)
}

func setTime(directory int, name string, modified time.Time, flags int) error {
	text, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	stamp := syscall.NsecToTimespec(modified.UnixNano())
	times := [2]syscall.Timespec{stamp, stamp} // of the last access, and of the last change
	_, _, number := syscall.Syscall6(syscall.SYS_UTIMENSAT, uintptr(directory), uintptr(unsafe.Pointer(text)),
		uintptr(unsafe.Pointer(&times)), uintptr(flags), 0, 0)
	if number != 0 {
		return number
	}
	return nil
}

func symlinkAt(target string, parent int, base string) error {
	to, err := syscall.BytePtrFromString(target)
	if err != nil {
		return err
	}
	name, err := syscall.BytePtrFromString(base)
	if err != nil {
		return err
	}
	_, _, number := syscall.Syscall(
		syscall.SYS_SYMLINKAT, uintptr(unsafe.Pointer(to)), uintptr(parent), uintptr(unsafe.Pointer(name)))
	if number != 0 {
		return number
	}
	return nil
}

// makeDevice is the layout of dev_t: makedev(3).
func makeDevice(major, minor uint64) int {
	return int(minor&0xff | major&0xfff<<8 | minor&^0xff<<12 | major&^0xfff<<32)
}

func deviceParts(device uint64) (major, minor int64) {
	return int64(device>>8&0xfff | device>>32&^0xfff), int64(device&0xff | device>>12&^0xff)
}
