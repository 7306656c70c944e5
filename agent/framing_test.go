package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

const tooLongMark = "<too long>"

// splitAll feeds a stream in pieces of the given length and returns what came out.
func splitAll(stream []byte, limit, length int) []string {
	var lines []string
	splitter := lineSplitter{limit: limit}
	defer splitter.release()
	for piece := range slices.Chunk(stream, length) {
		splitter.feed(piece,
			func(line []byte) { lines = append(lines, string(line)) },
			func() { lines = append(lines, tooLongMark) })
	}
	return lines
}

// expectedLines is what must come out, however the stream was cut.
func expectedLines(stream []byte, limit int) []string {
	var lines []string
	parts := bytes.Split(stream, []byte{'\n'})
	for i, part := range parts {
		switch {
		case len(part) > limit:
			lines = append(lines, tooLongMark)
		case i < len(parts)-1:
			lines = append(lines, string(part))
		}
	}
	return lines
}

func TestLineSplitter(t *testing.T) {
	large := strings.Repeat("x", 3*smallLine)
	streams := []string{
		"", "\n", "a", "a\n", "a\nb", "\n\na\n", "abcd\n", "abcde\n", "abcdefghij\nab\n", "abcdefghij",
		large + "\n" + large + "y\n\nz\n" + large,
	}
	for _, stream := range streams {
		for _, limit := range []int{4, len(large), len(large) + 1} {
			for _, length := range []int{1, 2, 3, 7, 4096, smallLine, smallLine + 1, 1 << 20} {
				if length < 7 && len(stream) > 1000 {
					continue
				}
				got, want := splitAll([]byte(stream), limit, length), expectedLines([]byte(stream), limit)
				if !slices.Equal(got, want) {
					t.Errorf("%d bytes, limit %d, pieces of %d: %d lines, not %d", len(stream), limit, length, len(got), len(want))
				}
			}
		}
	}
}

func TestLineOverTheLimitIsReportedAtOnce(t *testing.T) {
	splitter := lineSplitter{limit: 2 * smallLine}
	reported := 0
	for range 5 {
		splitter.feed(make([]byte, smallLine), func([]byte) { t.Error("a line") }, func() { reported++ })
	}
	if reported != 1 || len(splitter.partial) != 0 || splitter.mapped {
		t.Errorf("reported %d times, %d bytes kept", reported, len(splitter.partial))
	}
}

func FuzzLineSplitter(f *testing.F) {
	f.Add([]byte("CONNECT 52\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n"), uint16(64), uint16(5))
	f.Add([]byte("\n\n\r\n"), uint16(0), uint16(1))
	f.Add(bytes.Repeat([]byte("0123456789\n"), 50), uint16(9), uint16(100))
	f.Fuzz(func(t *testing.T, stream []byte, limit, length uint16) {
		got, want := splitAll(stream, int(limit), max(int(length), 1)), expectedLines(stream, int(limit))
		if !slices.Equal(got, want) {
			t.Errorf("%q, not %q", got, want)
		}
	})
}
