package main

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// fileTypes are the names of the types that a mode holds: inode(7).
var fileTypes = map[uint32]string{
	syscall.S_IFREG: "file", syscall.S_IFDIR: "directory", syscall.S_IFLNK: "symlink", syscall.S_IFIFO: "fifo",
	syscall.S_IFSOCK: "socket", syscall.S_IFBLK: "block", syscall.S_IFCHR: "character",
}

// statFile returns what is known of a file, or of the file that a link leads to.
func statFile(path string, follow bool) (object, error) {
	var status syscall.Stat_t
	look := syscall.Lstat
	if follow {
		look = syscall.Stat
	}
	if err := look(path, &status); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	kind := status.Mode & syscall.S_IFMT
	result := object(nil).text("type", []byte(fileTypes[kind])).integer("mode", int64(status.Mode&0o7777)).
		integer("uid", int64(status.Uid)).integer("gid", int64(status.Gid)).integer("size", status.Size).
		integer("mtime_ns", status.Mtim.Nano()).
		value("inode", strconv.AppendUint(nil, status.Ino, 10)).integer("links", int64(status.Nlink))
	if kind == syscall.S_IFLNK {
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		result = result.text("target", []byte(target))
	}
	return result, nil
}

// makeDirectory makes a directory. With parents, those above it are made as well (mode 755), and it may
// exist.
func makeDirectory(path string, parents bool, mode *uint32) error {
	if parents {
		if err := os.MkdirAll(filepath.Dir(filepath.Clean(path)), newDirectoryMode); err != nil {
			return err
		}
	}
	first := uint32(newDirectoryMode)
	if mode != nil {
		first = *mode
	}
	err := syscall.Mkdir(path, first)
	if err == syscall.EEXIST && parents {
		if status, lookErr := os.Stat(path); lookErr == nil && status.IsDir() {
			return nil
		}
	}
	if err == nil && mode != nil {
		err = syscall.Chmod(path, first) // whatever the umask, and with the sticky bit
	}
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// removeFile removes a file or an empty directory, or a tree. No link is followed.
func removeFile(path string, recursive bool) error {
	if _, err := os.Lstat(path); err != nil || !recursive {
		if err == nil {
			err = os.Remove(path)
		}
		return err
	}
	if filepath.Clean(path) == "/" {
		return &os.PathError{Op: "remove", Path: path, Err: syscall.EBUSY}
	}
	return os.RemoveAll(path)
}

func renameFile(from, to string) error {
	if err := syscall.Rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func changeMode(path string, mode uint32) error {
	if err := syscall.Chmod(path, mode); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}

// changeOwner changes the owner of a file, or of the file that a link leads to.
func changeOwner(path string, uid, gid int) error {
	if err := syscall.Chown(path, uid, gid); err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	return nil
}

func makeSymlink(target, path string) error {
	if err := syscall.Symlink(target, path); err != nil {
		return &os.LinkError{Op: "symlink", Old: target, New: path, Err: err}
	}
	return nil
}
