package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"syscall"
	"unsafe"
)

// depthLimit is how deep a tree may be whose archive is read or written.
const depthLimit = 256

var (
	errOutside = errors.New("the entry's name is absolute, leads out with .., or is too deep")
	errKind    = errors.New("the entry is of a type that is not known")
)

// extraction makes the files of an archive in a directory. No name leads out of it: the kernel resolves
// each one beneath the directory, whatever links the archive, or somebody meanwhile, has put there.
type extraction struct {
	root   int // the directory, open
	owners bool
	buffer []byte
	// begun are the directories that the last entry was in: their modes and times are set when the
	// archive has left them, since each file that is made in them changes the time.
	begun []*tar.Header
}

// extractArchive extracts an archive into a directory, which is made if there is none. What was
// extracted before a failure stays, but no file in part.
//
//	owners: whether the files get the archive's.
func extractArchive(archive io.Reader, directory string, owners bool, buffer []byte) error {
	if err := os.MkdirAll(directory, newDirectoryMode); err != nil {
		return err
	}
	root, err := openAgain(directory, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: directory, Err: err}
	}
	defer syscall.Close(root)
	e := extraction{root: root, owners: owners, buffer: buffer}
	for reader := tar.NewReader(archive); ; {
		header, err := reader.Next()
		if err == io.EOF {
			return e.leave("")
		}
		if err == nil {
			err = e.entry(header, reader)
		} else if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = &os.PathError{Op: "extract to", Path: directory, Err: err}
		}
		if err != nil {
			_ = e.leave("")
			return err
		}
	}
}

// insideName returns an entry's name without its needless parts; "" is the directory itself.
func insideName(name string) (string, error) {
	if strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
		return "", errOutside
	}
	var kept []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return "", errOutside
		default:
			kept = append(kept, part)
		}
	}
	if len(kept) > depthLimit {
		return "", errOutside
	}
	return strings.Join(kept, "/"), nil
}

func (e *extraction) entry(header *tar.Header, content io.Reader) error {
	name, err := insideName(header.Name)
	if err == nil {
		err = e.leave(name)
	}
	if err == nil && header.Typeflag == tar.TypeDir {
		err = e.directory(name, header)
	} else if err == nil && header.Typeflag != tar.TypeXGlobalHeader {
		err = e.file(name, header, content)
	}
	if err != nil {
		return &os.PathError{Op: "extract", Path: header.Name, Err: err}
	}
	return nil
}

// leave finishes the directories that a name is not in; "" is in none.
func (e *extraction) leave(name string) error {
	for n := len(e.begun); n > 0; n-- {
		header := e.begun[n-1]
		if name != "" && (header.Name == "" || strings.HasPrefix(name, header.Name+"/")) {
			return nil
		}
		e.begun = e.begun[:n-1]
		fd, err := e.open(header.Name, syscall.O_RDONLY|syscall.O_DIRECTORY)
		if err != nil {
			continue // a later entry has replaced it
		}
		err = e.finish(fd, header)
		syscall.Close(fd)
		if err != nil {
			return &os.PathError{Op: "finish", Path: header.Name, Err: err}
		}
	}
	return nil
}

// open opens what a name leads to beneath the directory. Links are followed as far as they stay there.
func (e *extraction) open(name string, flags int) (int, error) {
	if name == "" {
		name = "."
	}
	const resolveBeneath = 0x08 // RESOLVE_BENEATH; RESOLVE_NO_MAGICLINKS is 0x02: <linux/openat2.h>
	return openBeneath(e.root, name, openHow{flags: uint64(flags) | syscall.O_CLOEXEC, resolve: resolveBeneath | 0x02})
}

func openBeneath(root int, name string, how openHow) (int, error) {
	text, err := syscall.BytePtrFromString(name)
	if err != nil {
		return -1, err
	}
	const sysOpenat2 = 437 // on every architecture
	for {
		fd, _, number := syscall.Syscall6(sysOpenat2, uintptr(root), uintptr(unsafe.Pointer(text)),
			uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
		switch number {
		case 0:
			return int(fd), nil
		case syscall.EINTR, syscall.EAGAIN: // EAGAIN: something was renamed in the meantime
		default:
			return -1, number
		}
	}
}

// parent opens the directory that a name is in, and makes those that are missing.
func (e *extraction) parent(name string) (int, error) {
	directory := directoryOf(name)
	const flags = syscall.O_RDONLY | syscall.O_DIRECTORY
	fd, err := e.open(directory, flags)
	if err != syscall.ENOENT || directory == "" {
		return fd, err
	}
	above, err := e.parent(directory)
	if err != nil {
		return -1, err
	}
	err = syscall.Mkdirat(above, path.Base(directory), newDirectoryMode)
	syscall.Close(above)
	if err != nil && err != syscall.EEXIST {
		return -1, err
	}
	return e.open(directory, flags)
}

// directoryOf returns the name of the directory that a name is in; "" for the one that all are in.
func directoryOf(name string) string {
	if directory := path.Dir(name); directory != "." {
		return directory
	}
	return ""
}

// directory makes a directory, or keeps the one that is there.
func (e *extraction) directory(name string, header *tar.Header) error {
	if name != "" {
		parent, err := e.parent(name)
		if err != nil {
			return err
		}
		defer syscall.Close(parent)
		base := path.Base(name)
		err = syscall.Mkdirat(parent, base, 0o700)
		if err == syscall.EEXIST && !isDirectory(parent, base) {
			if err = syscall.Unlinkat(parent, base); err == nil {
				err = syscall.Mkdirat(parent, base, 0o700)
			}
		}
		if err != nil && err != syscall.EEXIST {
			return err
		}
	}
	fd, err := e.open(name, syscall.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	e.begun = append(e.begun, &tar.Header{
		Name: name, Uid: header.Uid, Gid: header.Gid, Mode: header.Mode, ModTime: header.ModTime,
	})
	return setAttributes(fd, header)
}

func isDirectory(parent int, name string) bool {
	fd, err := openBeneath(parent, name, openHow{
		flags: pathOnly | syscall.O_DIRECTORY | syscall.O_NOFOLLOW | syscall.O_CLOEXEC,
	})
	if err == nil {
		syscall.Close(fd)
	}
	return err == nil
}

// file makes what is no directory, in place of what has its name.
func (e *extraction) file(name string, header *tar.Header, content io.Reader) error {
	if name == "" {
		return errOutside
	}
	parent, err := e.parent(name)
	if err != nil {
		return err
	}
	defer syscall.Close(parent)
	base := path.Base(name)
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse:
		return e.regular(parent, base, header, content)
	case tar.TypeLink:
		return e.hardLink(parent, base, header.Linkname)
	case tar.TypeSymlink:
		err = removeName(parent, base)
		if err == nil {
			err = symlinkAt(header.Linkname, parent, base)
		}
		if err == nil {
			err = e.finishLink(parent, base, header)
		}
		return err
	}
	kinds := map[byte]uint32{
		tar.TypeFifo: syscall.S_IFIFO, tar.TypeChar: syscall.S_IFCHR, tar.TypeBlock: syscall.S_IFBLK,
	}
	kind, known := kinds[header.Typeflag]
	if !known {
		return errKind
	}
	if err := removeName(parent, base); err != nil {
		return err
	}
	if err := syscall.Mknodat(parent, base, kind|0o600, makeDevice(uint64(header.Devmajor), uint64(header.Devminor))); err != nil {
		return err
	}
	fd, err := openBeneath(parent, base, openHow{flags: pathOnly | syscall.O_NOFOLLOW | syscall.O_CLOEXEC})
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return e.finish(fd, header)
}

// regular makes a file, which has its name only once it is complete.
func (e *extraction) regular(parent int, base string, header *tar.Header, content io.Reader) error {
	made, err := beginReplacement(descriptorPath(parent)+"/"+base, nil, nil)
	if err != nil {
		return err
	}
	if err = copyTo(made.fd, content, e.buffer); err == nil {
		err = e.finish(made.fd, header)
	}
	if err != nil {
		made.abandon()
		return err
	}
	return made.commit()
}

// hardLink gives a file of the tree another name.
func (e *extraction) hardLink(parent int, base, target string) error {
	name, err := insideName(target)
	if err == nil && name == "" {
		err = errOutside
	}
	if err != nil {
		return err
	}
	other, err := e.open(directoryOf(name), syscall.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer syscall.Close(other)
	// It takes the name as a file does; where both are one file already, the rename does nothing.
	temporary := temporaryName()
	if err := linkAt(other, path.Base(name), parent, temporary, 0); err != nil {
		return err
	}
	err = syscall.Renameat(parent, temporary, parent, base)
	_ = syscall.Unlinkat(parent, temporary)
	return err
}

func removeName(parent int, base string) error {
	if err := syscall.Unlinkat(parent, base); err != nil && err != syscall.ENOENT {
		return err
	}
	return nil
}
