package main

import "bytes"

// lineLimit is the most bytes a request or a response may have, without its newline. It admits
// contentLimit bytes of content in the worst of JSON's encodings (six bytes for each: \u0000).
const lineLimit = 64 << 20

// keptBuffer is the largest buffer that a connection keeps between two lines.
const keptBuffer = 64 << 10

// lineSplitter turns a stream's pieces, as they were read, into lines. Of a line over the limit it
// keeps nothing: it reports it once, when the limit is passed, and drops the rest up to the newline.
type lineSplitter struct {
	limit    int
	partial  []byte
	dropping bool
}

// feed takes the next piece of the stream. It calls line with each complete line, without its newline,
// and tooLong for each line that has passed the limit, in the stream's order. A line is valid only
// during its call.
func (s *lineSplitter) feed(piece []byte, line func([]byte), tooLong func()) {
	for len(piece) > 0 {
		end := bytes.IndexByte(piece, '\n')
		part := piece
		if end >= 0 {
			part, piece = piece[:end], piece[end+1:]
		} else {
			piece = nil
		}
		if !s.dropping && len(s.partial)+len(part) > s.limit {
			s.dropping, s.partial = true, nil
			tooLong()
		}
		switch {
		case end < 0 && !s.dropping:
			s.partial = append(s.partial, part...)
		case end >= 0 && s.dropping:
			s.dropping = false
		case end >= 0 && len(s.partial) == 0:
			line(part)
		case end >= 0:
			line(append(s.partial, part...))
			s.partial = s.partial[:0]
			if cap(s.partial) > keptBuffer {
				s.partial = nil
			}
		}
	}
}
