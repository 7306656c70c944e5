package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// switchRoot makes newRoot the root of everything, with the kernel's file systems in it, and frees the
// initramfs: the kernel's documentation, "ramfs, rootfs and initramfs".
func switchRoot() error {
	for _, filesystem := range kernelFilesystems {
		target := newRoot + filesystem.path
		// Nothing of the image runs yet, so that a look and the move cannot differ.
		status, err := os.Lstat(target)
		if err == nil && !status.IsDir() {
			err = syscall.ENOTDIR
		}
		if err == nil {
			err = syscall.Mount(filesystem.path, target, "", syscall.MS_MOVE, "")
		}
		if err != nil {
			return &os.PathError{Op: "move " + filesystem.path + " to", Path: target, Err: err}
		}
	}
	if err := emptyInitramfs(); err != nil {
		return err
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return os.NewSyscallError("move the root", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	return os.Chdir("/")
}

// emptyInitramfs deletes the initramfs's content to free its memory. What is mounted in it is on other
// devices and is left alone.
func emptyInitramfs() error {
	const ramfs, tmpfs = 0x858458f6, 0x01021994 // their magic numbers, statfs(2)
	var filesystem syscall.Statfs_t
	if err := syscall.Statfs("/", &filesystem); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	if kind := uint32(filesystem.Type); kind != ramfs && kind != tmpfs {
		return &os.PathError{Op: "delete", Path: "/", Err: errNotInitramfs}
	}
	var status syscall.Stat_t
	if err := syscall.Stat("/", &status); err != nil {
		return os.NewSyscallError("stat", err)
	}
	deleteOnDevice("/", status.Dev)
	return nil
}

var errNotInitramfs = errors.New("the root is not an initramfs")

// deleteOnDevice deletes what it can of a directory's content: what stays costs some memory, no more.
func deleteOnDevice(directory string, device uint64) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return
	}
	for _, entry := range entries {
		path := filepath.Join(directory, entry.Name())
		var status syscall.Stat_t
		if syscall.Lstat(path, &status) != nil || uint64(status.Dev) != device {
			continue
		}
		if entry.IsDir() {
			deleteOnDevice(path, device)
			_ = syscall.Rmdir(path)
		} else {
			_ = syscall.Unlink(path)
		}
	}
}
