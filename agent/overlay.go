package main

import (
	"errors"
	"os"
	"syscall"
)

// Where the halves of an overlay are mounted in the initramfs until the overlay has them.
const (
	lowerRoot = "/lower"
	upperRoot = "/upper"
)

// mountOverlay mounts a read-only root file system below what is written to another disk, an ext4 with
// the directories upper and work: the kernel's documentation, "Overlay Filesystem".
func mountOverlay(config bootConfig) error {
	if err := mountDevice(config.root, lowerRoot, config.rootType, syscall.MS_RDONLY); err != nil {
		return err
	}
	if err := waitForDevice(config.upperDisk); err != nil {
		return err
	}
	if err := mountDevice(config.upperDisk, upperRoot, "ext4", syscall.MS_NOATIME); err != nil {
		return err
	}
	if err := takeOwnership(lowerRoot, upperRoot+"/upper"); err != nil {
		return err
	}
	if err := os.Mkdir(newRoot, newDirectoryMode); err != nil && !os.IsExist(err) {
		return err
	}
	// Directories can be renamed, and hard links stay links, as on any other file system.
	const options = "lowerdir=" + lowerRoot + ",upperdir=" + upperRoot + "/upper,workdir=" + upperRoot +
		"/work,redirect_dir=on,index=on"
	if err := syscall.Mount("overlay", newRoot, "overlay", 0, options); err != nil {
		return &os.PathError{Op: "mount an overlay on", Path: newRoot, Err: explain(err)}
	}
	milestone("overlay mounted")
	// The overlay keeps both; nobody else shall find them.
	for _, half := range []string{lowerRoot, upperRoot} {
		if err := syscall.Unmount(half, syscall.MNT_DETACH); err != nil {
			return &os.PathError{Op: "unmount", Path: half, Err: err}
		}
	}
	return nil
}

// mountDevice mounts a block device on a new directory.
func mountDevice(device, directory, kind string, flags uintptr) error {
	if err := os.Mkdir(directory, newDirectoryMode); err != nil && !os.IsExist(err) {
		return err
	}
	if err := syscall.Mount(device, directory, kind, flags, ""); err != nil {
		return &os.PathError{Op: "mount the " + kind + " of", Path: device, Err: explain(err)}
	}
	return nil
}

// takeOwnership gives a directory another's owner and mode: the upper one is the overlay's root.
func takeOwnership(from, to string) error {
	var status syscall.Stat_t
	if err := syscall.Stat(from, &status); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	if err := os.Chown(to, int(status.Uid), int(status.Gid)); err != nil {
		return err
	}
	// Not os.Chmod: it has the sticky and set-id bits elsewhere.
	if err := syscall.Chmod(to, status.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: to, Err: err}
	}
	return nil
}

// explain says what the kernel means when it does not know a file system.
func explain(err error) error {
	if err == syscall.ENODEV {
		return errors.New("the kernel has no such file system")
	}
	return err
}
