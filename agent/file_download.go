package main

import (
	"os"
	"syscall"
)

// source is a regular file that is open to be sent, or a part of it.
type source struct {
	fd     int
	path   string
	status syscall.Stat_t
	offset int64
	length int64 // at most; less if the file ends before
}

// openSource opens a part of a file; a negative length is all that follows.
func openSource(path string, offset, length int64) (*source, error) {
	fd, err := openAgain(path, syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	s := &source{fd: fd, path: path, offset: offset, length: length}
	err = syscall.Fstat(fd, &s.status)
	if err == nil {
		switch s.status.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
		case syscall.S_IFDIR:
			err = syscall.EISDIR
		default:
			err = errNotRegular
		}
	}
	if err != nil {
		syscall.Close(fd)
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return s, nil
}

func (s *source) close() { syscall.Close(s.fd) }

// size is how many bytes are to be sent by what the file says of itself. Files of /proc say 0.
func (s *source) size() int64 {
	rest := max(s.status.Size-s.offset, 0)
	if s.length >= 0 {
		rest = min(rest, s.length)
	}
	return rest
}

// properties are what a download's response says.
func (s *source) properties() object {
	result := fileProperties(&s.status)
	if s.status.Size > 0 {
		result = result.integer("size", s.size())
	}
	return result
}

func fileProperties(status *syscall.Stat_t) object {
	return object(nil).integer("mode", int64(status.Mode&0o7777)).integer("uid", int64(status.Uid)).
		integer("gid", int64(status.Gid)).integer("mtime_ns", status.Mtim.Nano())
}

// sendTo sends the part as a stream. Each frame is written with its length in one piece, whose size the
// packets of vsock divide.
func (s *source) sendTo(stream *frameWriter, buffer []byte) error {
	return s.eachPiece(buffer[frameHeader:], func(piece []byte) error {
		return stream.frame(buffer[:frameHeader+len(piece)])
	})
}

// eachPiece reads the part as far as it exists when it is read.
func (s *source) eachPiece(buffer []byte, use func([]byte) error) error {
	position, left := s.offset, s.length
	for left != 0 {
		piece := buffer
		if left > 0 {
			piece = buffer[:min(int64(len(buffer)), left)]
		}
		n, err := readAt(s.fd, piece, position)
		if err != nil {
			return &os.PathError{Op: "read", Path: s.path, Err: err}
		}
		if n == 0 {
			return nil
		}
		if err := use(piece[:n]); err != nil {
			return err
		}
		position += int64(n)
		if left > 0 {
			left -= int64(n)
		}
	}
	return nil
}

// readAt reads from a position, and again if a signal came between.
func readAt(fd int, into []byte, position int64) (int, error) {
	for {
		n, err := syscall.Pread(fd, into, position)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
