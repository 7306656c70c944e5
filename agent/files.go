package main

import (
	"encoding/json/jsontext"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unicode/utf8"
)

// contentLimit is the most bytes of a file's content that read_file returns and write_file takes.
const contentLimit = 10 << 20

// What is written where nothing was before.
const (
	newFileMode      = 0o644
	newDirectoryMode = 0o755
)

// pathOnly opens a file for use as a path: O_PATH, open(2).
const pathOnly = 0x200000

var (
	errNotRegular = errors.New("not a regular file")
	errTooLarge   = errors.New("larger than " + strconv.Itoa(contentLimit) + " bytes")
	errNotText    = errors.New("not valid UTF-8")
)

// readFile is the method read_file.
func (w *caller) readFile(params jsontext.Value) (call, *rpcError) {
	var path string
	if err := decodePath(params, &path); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		content, err := readRegular(path, contentLimit)
		if err == nil && !utf8.Valid(content) {
			err = &os.PathError{Op: "read", Path: path, Err: errNotText}
		}
		if err != nil {
			return nil, fileError(err)
		}
		return object(nil).text("content", content).end(), nil
	}, nil
}

// writeFile is the method write_file.
func (w *caller) writeFile(params jsontext.Value) (call, *rpcError) {
	var path, content string
	if err := decodePath(params, &path, text("content", &content)); err != nil {
		return nil, err
	}
	if len(content) > contentLimit {
		return nil, invalidParams("content is " + errTooLarge.Error())
	}
	return func() ([]byte, *rpcError) {
		if err := replaceFile(path, []byte(content)); err != nil {
			return nil, fileError(err)
		}
		return object(nil).boolean("success", true).end(), nil
	}, nil
}

// listDir is the method list_dir. A symbolic link is listed as itself, not as what it points to.
func (w *caller) listDir(params jsontext.Value) (call, *rpcError) {
	var path string
	if err := decodePath(params, &path); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fileError(err)
		}
		list := []byte{'['}
		for _, entry := range entries {
			status, err := entry.Info()
			if err != nil {
				continue // it was removed in the meantime
			}
			size := status.Size()
			if status.IsDir() {
				size = 0
			}
			if len(list) > 1 {
				list = append(list, ',')
			}
			item := object(nil).text("name", []byte(entry.Name()))
			list = append(list, item.boolean("is_dir", status.IsDir()).integer("size", size).end()...)
		}
		return object(nil).value("entries", append(list, ']')).end(), nil
	}, nil
}

// decodePath reads params with a path. A relative one starts where commands start.
func decodePath(params jsontext.Value, path *string, others ...field) *rpcError {
	if err := decodeParams(params, append(others, text("path", path))...); err != nil {
		return err
	}
	if *path == "" {
		return invalidParams("path is empty")
	}
	if (*path)[0] != '/' {
		directory, _ := surroundings(currentAccount())
		*path = directory + "/" + *path
	}
	return nil
}

// fileError is the error response for a failed file operation.
func fileError(err error) *rpcError {
	failure := &rpcError{code: codeInternal, message: err.Error()}
	var number syscall.Errno
	if errors.As(err, &number) {
		failure.errno = errnoName(number)
	}
	return failure
}

// kernelFile is more than a file of /proc/sys has.
const kernelFile = 4 << 10

// readRegular reads a regular file of at most limit bytes. It never waits: a FIFO, a device or a
// socket is refused. The size is not believed: files of /proc have none.
func readRegular(path string, limit int) ([]byte, error) {
	fail := func(operation string, err error) ([]byte, error) {
		return nil, &os.PathError{Op: operation, Path: path, Err: err}
	}
	fd, err := openAgain(path, syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fail("open", err)
	}
	defer syscall.Close(fd)
	var status syscall.Stat_t
	if err := syscall.Fstat(fd, &status); err != nil {
		return fail("stat", err)
	}
	switch status.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return fail("read", syscall.EISDIR)
	default:
		return fail("read", errNotRegular)
	}
	size := status.Size
	if size == 0 {
		// The kernel's files say so, and some have to be read at once: behind their first bytes,
		// sysctl(2)'s are at their end.
		size = kernelFile
	}
	content := make([]byte, 0, min(size, int64(limit))+1)
	for {
		if len(content) > limit {
			return fail("read", errTooLarge)
		}
		if len(content) == cap(content) {
			content = append(content, 0)[:len(content)]
		}
		n, err := readAgain(fd, content[len(content):min(cap(content), limit+1)])
		if err != nil {
			return fail("read", err)
		}
		if n == 0 {
			return content, nil
		}
		content = content[:len(content)+n]
	}
}

// replaceFile gives a file a new content, and makes it and its directories if needed. Who reads it at
// the same time sees the old content or the new, never a part: a temporary file beside it takes its
// name. Symbolic links are followed; mode and owner stay. Where the file cannot be replaced (it is not
// a regular one, its directory takes no new files as in /proc, or it is a mount point) it is written in
// place.
func replaceFile(path string, content []byte) error {
	return replaceContent(path, content, nil)
}

// replaceContent does so with a mode for a file; nil for the old one's, or the usual one.
func replaceContent(path string, content []byte, mode *uint32) error {
	if path[len(path)-1] == '/' {
		return &os.PathError{Op: "write", Path: path, Err: syscall.EISDIR}
	}
	if err := os.MkdirAll(filepath.Dir(path), newDirectoryMode); err != nil {
		return err
	}
	for range replaceableLooks {
		name, old, err := replaceable(path)
		if err == errReplaced {
			continue
		}
		if err != nil {
			return err
		}
		if name != "" {
			if replaced, err := replaceByRename(name, content, old, mode); err != nil || replaced {
				return err
			}
		}
		break
	}
	return writeInPlace(path, content)
}

// replaceableLooks is how often a file that others keep replacing is looked at, before it is written in
// place.
const replaceableLooks = 100

var errReplaced = errors.New("replaced or removed since it was opened")

// replaceable returns the name of the file that a path leads to, and what it is now, nil if there is
// none. Without a name it can only be written in place.
func replaceable(path string) (string, *syscall.Stat_t, error) {
	// The kernel follows the links, under its rules for links in directories that all may write to.
	fd, err := openAgain(path, pathOnly, 0)
	if err == syscall.ENOENT {
		if _, err := os.Lstat(path); err == nil {
			return "", nil, nil // a link that leads nowhere: opening makes the file
		}
		return path, nil, nil
	}
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer syscall.Close(fd)
	var status, named syscall.Stat_t
	if err := syscall.Fstat(fd, &status); err != nil {
		return "", nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if status.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return "", nil, nil
	}
	name, err := os.Readlink(descriptorPath(fd))
	if err != nil {
		return "", nil, nil
	}
	if syscall.Lstat(name, &named) != nil || named.Dev != status.Dev || named.Ino != status.Ino {
		return "", nil, errReplaced
	}
	return name, &status, nil
}

// replaceByRename says whether it replaced the file; it is an error only if the content could not be
// written, as on a full disk.
func replaceByRename(path string, content []byte, old *syscall.Stat_t, mode *uint32) (bool, error) {
	made, err := beginReplacement(path, old, mode)
	if err != nil {
		return false, nil
	}
	if err := writeAll(made.fd, content); err != nil {
		made.abandon()
		return false, &os.PathError{Op: "write", Path: path, Err: err}
	}
	return made.commit() == nil, nil
}

func writeInPlace(path string, content []byte) error {
	flags := syscall.O_WRONLY | syscall.O_CREAT | syscall.O_TRUNC | syscall.O_NONBLOCK
	fd, err := openAgain(path, flags, newFileMode)
	if err == nil {
		err = writeAll(fd, content)
		if closed := syscall.Close(fd); err == nil {
			err = closed
		}
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func writeAll(fd int, content []byte) error {
	for len(content) > 0 {
		n, err := syscall.Write(fd, content)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

// descriptorPath names what a descriptor of this process is open on, whatever its path is now.
func descriptorPath(fd int) string {
	return "/proc/self/fd/" + strconv.Itoa(fd)
}

func openAgain(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC|syscall.O_LARGEFILE, mode)
		if err != syscall.EINTR {
			return fd, err
		}
	}
}

// errnoName returns the C name of the errors that file operations end with, else a number.
func errnoName(number syscall.Errno) string {
	if name, known := errnoNames[number]; known {
		return name
	}
	return "E" + strconv.Itoa(int(number))
}

var errnoNames = map[syscall.Errno]string{
	syscall.ENOENT: "ENOENT", syscall.EACCES: "EACCES", syscall.EPERM: "EPERM", syscall.EEXIST: "EEXIST",
	syscall.EISDIR: "EISDIR", syscall.ENOTDIR: "ENOTDIR", syscall.ENOTEMPTY: "ENOTEMPTY", syscall.ENOSPC: "ENOSPC",
	syscall.EDQUOT: "EDQUOT", syscall.EROFS: "EROFS", syscall.ELOOP: "ELOOP", syscall.ENAMETOOLONG: "ENAMETOOLONG",
	syscall.EINVAL: "EINVAL", syscall.EAGAIN: "EAGAIN", syscall.EBUSY: "EBUSY", syscall.EIO: "EIO",
	syscall.EMFILE: "EMFILE", syscall.ENFILE: "ENFILE", syscall.ENOMEM: "ENOMEM", syscall.ENXIO: "ENXIO",
	syscall.ETXTBSY: "ETXTBSY", syscall.EXDEV: "EXDEV", syscall.EFBIG: "EFBIG", syscall.EPIPE: "EPIPE",
	syscall.ESRCH: "ESRCH", syscall.ENOTTY: "ENOTTY", syscall.ENODEV: "ENODEV", syscall.EMLINK: "EMLINK",
	syscall.ENOEXEC: "ENOEXEC", syscall.E2BIG: "E2BIG", syscall.EOPNOTSUPP: "EOPNOTSUPP", syscall.ENOSYS: "ENOSYS",
	syscall.ETIMEDOUT: "ETIMEDOUT", syscall.ECHILD: "ECHILD",
}
