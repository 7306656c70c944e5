package main

import (
	"os"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	// outputLimit is the most bytes of a command's stream that a text result holds.
	outputLimit = 1 << 20
	// outputMark ends a stream that was cut.
	outputMark = "\n... [output truncated]"
	// pipeGrace is how long a stream is read on after its command has ended, while another process
	// still holds it open.
	pipeGrace = 200 * time.Millisecond
)

// pieces are buffers for one read. They are borrowed only once there is something to read, so that
// thousands of idle connections and pipes cost none.
var pieces = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// readPiece waits until the file has something to read, reads a piece and passes it to use. An empty
// piece is the end of the stream. A piece is valid only during the call.
func readPiece(file *os.File, use func([]byte)) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var buffer *[32 << 10]byte
	var n int
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		buffer = pieces.Get().(*[32 << 10]byte)
		n, failure = readAgain(int(fd), buffer[:])
		if failure == syscall.EAGAIN {
			pieces.Put(buffer)
			buffer = nil
			return false
		}
		return true
	})
	if buffer == nil {
		return err
	}
	defer pieces.Put(buffer)
	if failure != nil {
		return failure
	}
	use(buffer[:n])
	return nil
}

// readAgain reads, and again if a signal came between.
func readAgain(fd int, into []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, into)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// capture collects one stream of a command: its first bytes, up to a limit; the rest is read and dropped,
// so that the command is never stopped by a full pipe.
type capture struct {
	pipe  *os.File
	limit int
	kept  []byte
	total int64
	done  chan struct{}
}

func startCapture(pipe *os.File, limit int) *capture {
	c := &capture{pipe: pipe, limit: limit, done: make(chan struct{})}
	go c.run()
	return c
}

func (c *capture) run() {
	open := true
	for open {
		err := readPiece(c.pipe, func(piece []byte) { open = c.take(piece) })
		if err != nil {
			break
		}
	}
	if open {
		// The grace is over: what lies in the pipe by now still belongs to the command.
		open = c.takeRest()
	}
	close(c.done)
	if open {
		// A process that the command left behind must not die of a closed pipe.
		_ = c.pipe.SetReadDeadline(time.Time{})
		for open && readPiece(c.pipe, func(piece []byte) { open = len(piece) > 0 }) == nil {
		}
	}
	c.pipe.Close()
}

// take adds a piece and says whether the stream goes on.
func (c *capture) take(piece []byte) bool {
	room := c.limit - len(c.kept)
	c.kept = append(c.kept, piece[:min(room, len(piece))]...)
	c.total += int64(len(piece))
	return len(piece) > 0
}

// takeRest reads what is there without waiting, at most one full pipe, and says whether the stream
// goes on.
func (c *capture) takeRest() bool {
	raw, err := c.pipe.SyscallConn()
	if err != nil {
		return false
	}
	open := true
	buffer := pieces.Get().(*[32 << 10]byte)
	defer pieces.Put(buffer)
	_ = raw.Control(func(fd uintptr) {
		for limit := c.total + outputLimit; open && c.total < limit; {
			n, err := readAgain(int(fd), buffer[:])
			if err != nil {
				open = err == syscall.EAGAIN
				return
			}
			open = c.take(buffer[:n])
		}
	})
	return open
}

// cut says whether there was more than the limit. The stream must have been waited for.
func (c *capture) cut() bool {
	return c.total > int64(c.limit)
}

// text waits for the stream and returns it as a result shows it: marked where it was cut, unless plain.
// The command must have ended.
func (c *capture) text(plain bool) []byte {
	<-c.done
	if plain || !c.cut() {
		return c.kept
	}
	return append(c.kept[:len(c.kept)-splitBytes(c.kept)], outputMark...)
}

// cutText returns the text's first bytes, at most limit. A character that the limit would split is
// left out as a whole; what is not UTF-8 anyway is kept as it is.
func cutText(text []byte, limit int) []byte {
	if len(text) <= limit {
		return text
	}
	return text[:limit-splitBytes(text[:limit])]
}

// splitBytes returns how many bytes at the text's end begin a character that is not complete, 0 to 3.
func splitBytes(text []byte) int {
	for n := 1; n <= min(utf8.UTFMax-1, len(text)); n++ {
		tail := text[len(text)-n:]
		if utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}
