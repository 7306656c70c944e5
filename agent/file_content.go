package main

import (
	"os"
	"path/filepath"
	"syscall"
)

// pieceLimit is the most bytes that one file.read returns.
const pieceLimit = 1 << 20

// piece is a part of a file.
type piece struct {
	data  []byte
	atEnd bool
	size  int64 // of the file
}

// readPart reads a part of a regular file: all of the length, unless the file ends before.
func readPart(path string, offset int64, length int) (piece, error) {
	from, err := openSource(path, offset, int64(length))
	if err != nil {
		return piece{}, err
	}
	defer from.close()
	fail := func(err error) (piece, error) { return piece{}, &os.PathError{Op: "read", Path: path, Err: err} }
	found := piece{size: from.status.Size}
	// The size is not believed: files of /proc have none.
	data := make([]byte, 0, min(from.size(), pieceLimit)+1)
	for {
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
		// One byte more than is wanted tells whether the file ends there.
		n, err := readAt(from.fd, data[len(data):min(cap(data), length+1)], offset+int64(len(data)))
		if err != nil {
			return fail(err)
		}
		data = data[:len(data)+n]
		if n == 0 || len(data) > length {
			found.atEnd = n == 0
			found.data = data[:min(len(data), length)]
			return found, nil
		}
	}
}

// change is what file.write does to a file.
type change struct {
	data      []byte
	offset    int64 // where; -1 for none
	appending bool
	truncate  bool    // the file ends after the data
	mode      *uint32 // the permissions of a new file; nil for the usual ones
}

// apply writes to a file that exists, or makes it and its directories.
func (c change) apply(path string) error {
	if !c.appending && c.offset < 0 {
		return replaceContent(path, c.data, c.mode)
	}
	if path[len(path)-1] == '/' {
		return &os.PathError{Op: "write", Path: path, Err: syscall.EISDIR}
	}
	if err := os.MkdirAll(filepath.Dir(path), newDirectoryMode); err != nil {
		return err
	}
	if err := c.write(path); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func (c change) write(path string) error {
	flags := syscall.O_WRONLY | syscall.O_NONBLOCK
	if c.appending {
		flags |= syscall.O_APPEND
	}
	fd, err := openAgain(path, flags|syscall.O_CREAT|syscall.O_EXCL, newFileMode)
	created := err == nil
	if err == syscall.EEXIST {
		// A link that leads nowhere exists as well: its file is made.
		fd, err = openAgain(path, flags|syscall.O_CREAT, newFileMode)
	}
	if err != nil {
		return err
	}
	if created && c.mode != nil {
		err = syscall.Fchmod(fd, *c.mode)
	}
	switch {
	case err != nil:
	case c.appending:
		err = writeAll(fd, c.data)
	default:
		err = writeAllAt(fd, c.data, c.offset)
	}
	if err == nil && c.truncate {
		err = syscall.Ftruncate(fd, c.offset+int64(len(c.data)))
	}
	if closed := syscall.Close(fd); err == nil {
		err = closed
	}
	return err
}

func writeAllAt(fd int, content []byte, position int64) error {
	for len(content) > 0 {
		n, err := syscall.Pwrite(fd, content, position)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		content, position = content[n:], position+int64(n)
	}
	return nil
}
