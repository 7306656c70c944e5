package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

const (
	ext4Magic       = 0xef53     // EXT4_SUPER_MAGIC, statfs(2)
	ext4IocResizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64)
	sectorSize      = 512        // the unit of sysfs, whatever the disk's own is
)

// growRoot grows the root file system, online, if it is an ext4 on a larger disk. A failure is
// reported and has no other effect.
func growRoot() {
	blocks, err := growFilesystem("/")
	switch {
	case err != nil:
		report("the root file system was not grown: " + err.Error())
	case blocks > 0:
		report("the root file system was grown to " + strconv.FormatUint(blocks, 10) + " blocks")
	}
}

// growFilesystem returns the new size in blocks, 0 if there was nothing to do.
func growFilesystem(path string) (uint64, error) {
	var filesystem syscall.Statfs_t
	if err := syscall.Statfs(path, &filesystem); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	if filesystem.Type != ext4Magic {
		return 0, nil
	}
	root, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var status syscall.Stat_t
	if err := syscall.Fstat(int(root.Fd()), &status); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	name, bytes, err := blockDevice(status.Dev)
	if err != nil {
		return 0, err
	}
	blocks, blockSize, err := ext4Size("/dev/" + name)
	if err != nil {
		return 0, err
	}
	wanted := bytes / blockSize
	if wanted <= blocks {
		return 0, nil
	}
	if _, _, number := syscall.Syscall(
		syscall.SYS_IOCTL, root.Fd(), ext4IocResizeFS, uintptr(unsafe.Pointer(&wanted))); number != 0 {
		return 0, os.NewSyscallError("resize", number)
	}
	return wanted, nil
}

// blockDevice returns a block device's name and its size in bytes. A file system of another kind of
// device (btrfs, overlay) has no directory there.
func blockDevice(device uint64) (name string, size uint64, err error) {
	// The layout of dev_t: makedev(3).
	major := device>>8&0xfff | device>>32&^0xfff
	minor := device&0xff | device>>12&^0xff
	directory := "/sys/dev/block/" + strconv.FormatUint(major, 10) + ":" + strconv.FormatUint(minor, 10)
	link, err := os.Readlink(directory)
	if err != nil {
		return "", 0, err
	}
	content, err := os.ReadFile(directory + "/size")
	if err != nil {
		return "", 0, err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(content)), 10, 64)
	return filepath.Base(link), sectors * sectorSize, err
}

// ext4Size reads the number of blocks and their size in bytes from a device's superblock, which lies
// at byte 1024: the kernel's documentation, "ext4 Data Structures and Algorithms", section 4.1.
func ext4Size(device string) (blocks, blockSize uint64, err error) {
	file, err := os.Open(device)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	var superblock [1024]byte
	if _, err := file.ReadAt(superblock[:], 1024); err != nil {
		return 0, 0, err
	}
	field := func(offset int) uint64 { return uint64(binary.LittleEndian.Uint32(superblock[offset:])) }
	const blocksLow, logBlockSize, featuresIncompatible, blocksHigh = 0x4, 0x18, 0x60, 0x150
	const feature64bit = 0x80
	blocks, blockSize = field(blocksLow), 1024<<min(field(logBlockSize), 6)
	if field(featuresIncompatible)&feature64bit != 0 {
		blocks |= field(blocksHigh) << 32
	}
	return blocks, blockSize, nil
}
