package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// initramfsConfig makes this program, as PID 1, the init of the initramfs that has the file.
const initramfsConfig = "/bouvet/init.json"

const (
	// deviceDeadline is how long a disk may take to appear, counted from the last module's loading.
	deviceDeadline = 30 * time.Second
	newRoot        = "/newroot"
)

// bootConfig is the content of initramfsConfig.
type bootConfig struct {
	modules     []string // paths in the initramfs, in the order of loading
	root        string   // the root file system's device, such as /dev/vda
	rootType    string   // its type, such as ext4
	upperDisk   string   // a device for what is written over a read-only root (an ext4), or ""
	modulesDisk string   // a device with the kernel's modules (an ext4, its root being modules/<release>), or ""
	release     string   // the kernel's release, the name of the directory under /lib/modules
	init        string   // the program in the root file system that becomes PID 1
}

func decodeBootConfig(content []byte) (bootConfig, error) {
	var c bootConfig
	failure := decodeParams(content, textList("modules", &c.modules), text("root", &c.root),
		text("root_type", &c.rootType), text("upper_disk", &c.upperDisk), text("modules_disk", &c.modulesDisk), text("release", &c.release),
		text("init", &c.init))
	if failure != nil {
		return c, errors.New(failure.message)
	}
	if c.modulesDisk != "" && (c.release == "" || c.release == "." || c.release == ".." || strings.Contains(c.release, "/")) {
		return c, errors.New("release is not the name of a directory: " + c.release)
	}
	return c, nil
}

// bootInitramfs takes a machine from its initramfs to its init. It returns only if that failed.
func bootInitramfs() error {
	if err := mountKernelFilesystems(); err != nil {
		return err
	}
	openConsole()
	milestone("started")
	content, err := readRegular(initramfsConfig, contentLimit)
	if err != nil {
		return err
	}
	config, err := decodeBootConfig(content)
	if err != nil {
		return &os.PathError{Op: "read", Path: initramfsConfig, Err: err}
	}
	for _, module := range config.modules {
		if err := loadModule(module); err != nil {
			// What it was for will be missed soon enough, or not at all.
			milestone(err.Error())
		}
	}
	milestone("modules loaded")
	if err := mountRoot(config); err != nil {
		return err
	}
	if config.modulesDisk != "" {
		if err := mountModules(config); err != nil {
			milestone("the guest has no kernel modules: " + err.Error())
		}
	}
	if err := switchRoot(); err != nil {
		return err
	}
	return startInit(config.init)
}

// kernelFilesystems are mounted first, and moved into the new root at the end.
var kernelFilesystems = []struct {
	kind, path string
	flags      uintptr
}{
	{"devtmpfs", "/dev", syscall.MS_NOSUID},
	{"sysfs", "/sys", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
	{"proc", "/proc", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
}

func mountKernelFilesystems() error {
	for _, filesystem := range kernelFilesystems {
		_ = os.Mkdir(filesystem.path, newDirectoryMode)
		// The kernel may have mounted devtmpfs already.
		err := syscall.Mount(filesystem.kind, filesystem.path, filesystem.kind, filesystem.flags, "")
		if err != nil && err != syscall.EBUSY {
			return &os.PathError{Op: "mount " + filesystem.kind + " on", Path: filesystem.path, Err: err}
		}
	}
	return nil
}

// openConsole makes the console the standard streams, which init inherits. Without a console node in
// the initramfs the kernel could not.
func openConsole() {
	fd, err := openAgain("/dev/console", syscall.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return
	}
	for stream := range 3 {
		_ = syscall.Dup3(fd, stream, 0)
	}
	_ = syscall.Close(fd)
}

// milestone tells the console what was reached, and when, in seconds since the kernel's start.
func milestone(what string) {
	_ = writeAll(syscall.Stderr, []byte("bouvet-init: "+what+" "+secondsSinceBoot()+"\n"))
}

// halt ends the machine after a failure: a kernel whose init exits panics, and buries the message.
func halt(reason error) {
	milestone("cannot boot: " + reason.Error())
	const drain = 0x5409 // TCSBRK, ioctl_tty(2): with an argument of 1, wait until all is sent
	_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, uintptr(syscall.Stderr), drain, 1)
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	os.Exit(1)
}

// loadModule loads a kernel module; one that is loaded, or built in, is no error.
func loadModule(path string) error {
	fd, err := openAgain(path, syscall.O_RDONLY, 0)
	if err != nil {
		return &os.PathError{Op: "load", Path: path, Err: err}
	}
	defer syscall.Close(fd)
	parameters := [1]byte{}
	flags := uintptr(0)
	if filepath.Ext(path) != ".ko" {
		flags = 4 // MODULE_INIT_COMPRESSED_FILE, init_module(2)
	}
	_, _, number := syscall.Syscall(sysFinitModule, uintptr(fd), uintptr(unsafe.Pointer(&parameters)), flags)
	if number != 0 && number != syscall.EEXIST {
		return &os.PathError{Op: "load", Path: path, Err: number}
	}
	return nil
}

func mountRoot(config bootConfig) error {
	if err := waitForDevice(config.root); err != nil {
		return err
	}
	milestone("root device found")
	mount := func() error { return mountDevice(config.root, newRoot, config.rootType, 0) }
	if config.upperDisk != "" {
		mount = func() error { return mountOverlay(config) }
	}
	if err := mount(); err != nil {
		return err
	}
	milestone("root mounted")
	return nil
}

// waitForDevice waits until a device node is there: the kernel makes it when a driver found its disk,
// which may be some time after its module was loaded.
func waitForDevice(path string) error {
	watch, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	events := os.NewFile(uintptr(watch), "inotify")
	defer events.Close()
	if _, err := syscall.InotifyAddWatch(watch, filepath.Dir(path), syscall.IN_CREATE); err != nil {
		return os.NewSyscallError("inotify_add_watch", err)
	}
	if err := events.SetReadDeadline(time.Now().Add(deviceDeadline)); err != nil {
		return err
	}
	for {
		if status, err := os.Stat(path); err == nil && status.Mode()&os.ModeDevice != 0 {
			return nil
		}
		if err := readPiece(events, func([]byte) {}); err != nil {
			return errors.New(path + " did not appear within " + deviceDeadline.String() + "; block devices: " + blockDevices())
		}
	}
}

func blockDevices() string {
	var names []string
	entries, _ := os.ReadDir("/sys/block")
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, " ")
}

// mountModules shows the modules disk at /lib/modules/<release> of the new root. The image itself is
// not written to: if it lacks that directory, a tmpfs over its /lib/modules has it.
func mountModules(config bootConfig) error {
	if err := waitForDevice(config.modulesDisk); err != nil {
		return err
	}
	modules := filepath.Join("lib/modules", config.release)
	target, err := openInRoot(newRoot, modules)
	if err == syscall.ENOENT {
		if err := coverModules(config.release); err != nil {
			return err
		}
		target, err = openInRoot(newRoot, modules)
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: modules, Err: err}
	}
	defer syscall.Close(target)
	const flags = syscall.MS_RDONLY | syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	if err := syscall.Mount(config.modulesDisk, descriptorPath(target), "ext4", flags, ""); err != nil {
		return &os.PathError{Op: "mount", Path: config.modulesDisk, Err: err}
	}
	milestone("modules mounted")
	return nil
}

func coverModules(release string) error {
	const parent = "lib/modules"
	lower, err := openInRoot(newRoot, parent)
	if err != nil {
		return &os.PathError{Op: "open", Path: parent, Err: err}
	}
	defer syscall.Close(lower)
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	if err := syscall.Mount("tmpfs", descriptorPath(lower), "tmpfs", flags, "mode=0755,size=64k"); err != nil {
		return &os.PathError{Op: "mount a tmpfs on", Path: parent, Err: err}
	}
	cover, err := openInRoot(newRoot, parent)
	if err != nil {
		return &os.PathError{Op: "open", Path: parent, Err: err}
	}
	defer syscall.Close(cover)
	return os.Mkdir(descriptorPath(cover)+"/"+release, newDirectoryMode)
}

// openHow is struct open_how of <linux/openat2.h>.
type openHow struct {
	flags, mode, resolve uint64
}

const _ = -(unsafe.Sizeof(openHow{}) ^ 24) // its size; anything else does not compile

// openInRoot opens a directory below another, for use as a path only. What is there decides what its
// links say, but none leads out of it.
func openInRoot(directory, path string) (int, error) {
	root, err := openAgain(directory, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer syscall.Close(root)
	name, err := syscall.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	const (
		sysOpenat2    = 437  // on every architecture
		resolveInRoot = 0x10 // RESOLVE_IN_ROOT
	)
	how := openHow{flags: pathOnly | syscall.O_DIRECTORY | syscall.O_CLOEXEC, resolve: resolveInRoot}
	fd, _, number := syscall.Syscall6(sysOpenat2, uintptr(root), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
	if number != 0 {
		return -1, number
	}
	return int(fd), nil
}
