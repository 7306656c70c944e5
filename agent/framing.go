package main

import (
	"bytes"
	"syscall"
)

const (
	// lineLimit is the most bytes a request or a response may have, without its newline. It admits
	// contentLimit bytes of content in the worst of JSON's encodings (six bytes for each: \u0000).
	lineLimit = 64 << 20
	// smallLine is from where on, in bytes, a line that is read is kept in a mapping of its own: it
	// grows without being copied, and its memory goes back to the kernel at once.
	smallLine = 64 << 10
)

// lineSplitter turns a stream's pieces, as they were read, into lines. Of a line over the limit it
// keeps nothing: it reports it once, when the limit is passed, and drops the rest up to the newline.
type lineSplitter struct {
	limit    int
	partial  []byte // of the line that is not complete yet
	mapped   bool   // partial is a mapping, as long as the limit
	dropping bool
	rest     []byte // of the piece that is fed, behind the line that is passed on; who takes it shortens it
}

// feed takes the next piece of the stream. It calls line with each complete line, without its newline,
// and tooLong for each line that has passed the limit, in the stream's order. A line is valid only
// during its call.
func (s *lineSplitter) feed(piece []byte, line func([]byte), tooLong func()) {
	for s.rest = piece; len(s.rest) > 0; {
		end := bytes.IndexByte(s.rest, '\n')
		part := s.rest
		if end >= 0 {
			part, s.rest = s.rest[:end], s.rest[end+1:]
		} else {
			s.rest = nil
		}
		if end >= 0 && len(s.partial) == 0 && !s.dropping && len(part) <= s.limit {
			line(part)
			continue
		}
		if !s.dropping && !s.keep(part) {
			s.dropping = true
			tooLong()
		}
		if end >= 0 {
			if !s.dropping {
				line(s.partial)
			}
			s.release()
			s.dropping = false
		}
	}
}

// keep adds to the line that is not complete yet. It says no, and forgets the line, if the line is
// over the limit or there is no memory for it.
func (s *lineSplitter) keep(part []byte) bool {
	length := len(s.partial) + len(part)
	if length > s.limit {
		s.release()
		return false
	}
	if length > smallLine && !s.mapped {
		const memory = syscall.MAP_PRIVATE | syscall.MAP_ANONYMOUS | syscall.MAP_NORESERVE
		mapping, err := syscall.Mmap(-1, 0, s.limit, syscall.PROT_READ|syscall.PROT_WRITE, memory)
		if err != nil {
			s.release()
			return false
		}
		s.partial, s.mapped = append(mapping[:0], s.partial...), true
	}
	s.partial = append(s.partial, part...)
	return true
}

// release forgets what is kept.
func (s *lineSplitter) release() {
	if s.mapped {
		_ = syscall.Munmap(s.partial[:s.limit])
		s.partial, s.mapped = nil, false
	}
	s.partial = s.partial[:0]
}
