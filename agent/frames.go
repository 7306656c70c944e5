package main

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// A stream is raw bytes on a connection that carries nothing else meanwhile: frames of a length, four
// bytes with the most significant first, and so many bytes; two lengths are marks.
const (
	frameLimit   = 1 << 20
	frameHeader  = 4
	frameEnd     = 0
	frameAborted = 0xffffffff
)

var (
	errAborted = errors.New("the sender has given up")
	errFrame   = errors.New("a frame is longer than it may be")
)

// frameReader reads the stream that follows a request.
type frameReader struct {
	connection *connection
	left       uint32 // of the frame that is being read
	end        error  // why nothing more comes: io.EOF at the stream's end
}

// Read returns bytes of the stream; io.EOF at its end, errAborted if the sender gave up.
func (r *frameReader) Read(into []byte) (int, error) {
	for r.left == 0 && r.end == nil {
		r.next()
	}
	if r.end != nil {
		return 0, r.end
	}
	n, err := r.raw(into[:min(len(into), int(r.left))])
	r.left -= uint32(n)
	if err != nil {
		r.end = err
	}
	return n, err
}

// next reads a frame's length.
func (r *frameReader) next() {
	var header [frameHeader]byte
	for have := 0; have < frameHeader; {
		n, err := r.raw(header[have:])
		have += n
		if err != nil {
			r.end = err
			return
		}
	}
	switch length := binary.BigEndian.Uint32(header[:]); {
	case length == frameEnd:
		r.end = io.EOF
	case length == frameAborted:
		r.end = errAborted
	case length > frameLimit:
		r.end = errFrame
	default:
		r.left = length
	}
}

// raw returns bytes of the connection: first those that were read together with the request.
func (r *frameReader) raw(into []byte) (int, error) {
	splitter := &r.connection.splitter
	if len(splitter.rest) > 0 {
		n := copy(into, splitter.rest)
		splitter.rest = splitter.rest[n:]
		return n, nil
	}
	n, err := r.connection.file.Read(into)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// drain reads what is left of the stream, and says whether it was whole: what follows is a line then.
func (r *frameReader) drain() bool {
	piece := pieces.Get().(*[32 << 10]byte)
	defer pieces.Put(piece)
	for r.end == nil {
		_, _ = r.Read(piece[:])
	}
	return r.end == io.EOF || r.end == errAborted
}

// frameWriter writes the stream that follows a response.
type frameWriter struct {
	file   *os.File
	sent   int64 // bytes of all frames
	broken error // the connection's failure
}

// header announces a frame of so many bytes, from 1 to frameLimit, or writes a mark.
func (w *frameWriter) header(length uint32) error {
	var header [frameHeader]byte
	binary.BigEndian.PutUint32(header[:], length)
	if w.broken == nil {
		_, w.broken = w.file.Write(header[:])
	}
	return w.broken
}

// Write sends bytes as one frame or more.
func (w *frameWriter) Write(content []byte) (int, error) {
	written := 0
	for len(content) > 0 {
		piece := content[:min(len(content), frameLimit)]
		if err := w.header(uint32(len(piece))); err != nil {
			return written, err
		}
		if _, w.broken = w.file.Write(piece); w.broken != nil {
			return written, w.broken
		}
		content = content[len(piece):]
		written += len(piece)
		w.sent += int64(len(piece))
	}
	return written, nil
}

// frame sends one frame: its first frameHeader bytes are room for the length of what follows them.
func (w *frameWriter) frame(frame []byte) error {
	length := len(frame) - frameHeader
	binary.BigEndian.PutUint32(frame, uint32(length))
	if w.broken == nil {
		if _, w.broken = w.file.Write(frame); w.broken == nil {
			w.sent += int64(length)
		}
	}
	return w.broken
}

// stream answers a request with a result, and then with what send writes; nothing else is sent
// meanwhile. A failure of send is told at the stream's end.
func (w *caller) stream(result []byte, send func(*frameWriter) error) {
	c := w.connection
	c.writing.Lock()
	defer c.writing.Unlock()
	out := &frameWriter{file: c.file}
	if _, out.broken = c.file.Write(response(w.id, result, nil)); out.broken != nil {
		return
	}
	err := send(out)
	mark := uint32(frameEnd)
	end := object(nil)
	if w.id != nil {
		end = end.value("request", w.id)
	}
	end = end.integer("bytes", out.sent)
	if err != nil {
		mark = frameAborted
		end = end.value("error", fileError(err).object())
	}
	if out.header(mark) == nil {
		_, _ = c.file.Write(notification("stream.end", end.end()))
	}
}
