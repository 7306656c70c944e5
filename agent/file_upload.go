package main

import (
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// streamBuffer is what a stream reads or writes at once. Larger ones gain nothing on vsock, whose
// packets have at most 64 KiB.
const streamBuffer = 128 << 10

// streamLimit is how many streams are served at once, which bounds their buffers' memory.
const streamLimit = 16

var streamBuffers = sync.Pool{New: func() any { return new([streamBuffer]byte) }}

// streamSlots has a place for each stream.
var streamSlots = make(chan struct{}, streamLimit)

// acquireStream takes a place and a buffer for a stream; it fails where there are too many.
func acquireStream() (buffer []byte, release func(), failure *rpcError) {
	select {
	case streamSlots <- struct{}{}:
	default:
		return nil, nil, &rpcError{code: codeInternal, message: "too many streams", errno: "EBUSY"}
	}
	borrowed := streamBuffers.Get().(*[streamBuffer]byte)
	return borrowed[:], func() {
		streamBuffers.Put(borrowed)
		<-streamSlots
	}, nil
}

// receiveTree extracts a stream that is an archive, and reads what comes after the archive's end.
func receiveTree(stream io.Reader, directory string, owners bool, buffer []byte) error {
	if err := extractArchive(stream, directory, owners, buffer); err != nil {
		return err
	}
	return readToEnd(stream, buffer)
}

// receiveFile makes a stream the content of a file, as a whole or not at all. Missing directories are
// made; links are followed.
//
//	mode: the permissions; nil for the old file's, or the usual ones.
//	keeps: whether an old file's owner stays.
func receiveFile(stream io.Reader, path string, mode *uint32, keeps bool, buffer []byte) error {
	if path[len(path)-1] == '/' {
		return &os.PathError{Op: "write", Path: path, Err: syscall.EISDIR}
	}
	if err := os.MkdirAll(filepath.Dir(path), newDirectoryMode); err != nil {
		return err
	}
	name, old, err := replaceable(path)
	if err == nil && name == "" {
		err = &os.PathError{Op: "replace", Path: path, Err: errNotRegular}
	}
	if err != nil {
		return err
	}
	if old != nil && !keeps {
		if stays := old.Mode & 0o7777; mode == nil {
			mode = &stays
		}
		old = nil
	}
	content, err := beginReplacement(name, old, mode)
	if err != nil {
		return err
	}
	if err := copyTo(content.fd, stream, buffer); err != nil {
		content.abandon()
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return content.commit()
}

// copyTo writes what a reader has to a descriptor.
func copyTo(fd int, from io.Reader, buffer []byte) error {
	return eachPiece(from, buffer, func(piece []byte) error { return writeAll(fd, piece) })
}

// readToEnd drops what a reader still has.
func readToEnd(from io.Reader, buffer []byte) error {
	return eachPiece(from, buffer, func([]byte) error { return nil })
}

func eachPiece(from io.Reader, buffer []byte, use func([]byte) error) error {
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if err := use(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// counter counts what is read through it.
type counter struct {
	from  io.Reader
	count int64
}

func (c *counter) Read(into []byte) (int, error) {
	n, err := c.from.Read(into)
	c.count += int64(n)
	return n, err
}
