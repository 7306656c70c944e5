package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json/jsontext"
	"errors"
	"io"
	"os"
	"testing"
)

// frameStream returns a reader of a stream, part of which came with its request.
func frameStream(t testing.TB, early, late []byte) *frameReader {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	go func() {
		_, _ = writer.Write(late)
		writer.Close()
	}()
	c := &connection{file: reader}
	c.splitter.rest = early
	return &frameReader{connection: c}
}

func frame(content string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(content))), content...)
}

func TestFramesAreReadHoweverTheyCome(t *testing.T) {
	stream := append(append(frame("one"), frame("two")...), 0, 0, 0, 0)
	for cut := range stream {
		r := frameStream(t, stream[:cut], stream[cut:])
		content, err := io.ReadAll(r)
		if err != nil || string(content) != "onetwo" || !r.drain() {
			t.Errorf("cut at %d: %q, %v", cut, content, err)
		}
	}
}

func TestStreamsThatAreNotWhole(t *testing.T) {
	cases := []struct {
		stream []byte
		want   error
		whole  bool
	}{
		{[]byte{0xff, 0xff, 0xff, 0xff}, errAborted, true},
		{[]byte{0, 0x10, 0, 1}, errFrame, false},
		{frame("x"), io.ErrUnexpectedEOF, false},
		{frame("content")[:6], io.ErrUnexpectedEOF, false},
		{[]byte{0, 0}, io.ErrUnexpectedEOF, false},
	}
	for _, c := range cases {
		r := frameStream(t, c.stream, nil)
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, c.want) || r.drain() != c.whole {
			t.Errorf("%q: %v, not %v", c.stream, err, c.want)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0}, 0)
	f.Add(append(frame("content"), 0, 0, 0, 0), 3)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, 2)
	f.Add([]byte{0, 0x10, 0, 1, 'x'}, 1)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		cut = max(0, min(cut, len(stream)))
		r := frameStream(t, stream[:cut], stream[cut:])
		content, _ := io.ReadAll(r)
		r.drain()
		if len(content) > len(stream) || !bytes.Equal(content, unframed(stream)) {
			t.Errorf("%d bytes of a stream of %d", len(content), len(stream))
		}
	})
}

// unframed is a stream's content, told plainly.
func unframed(stream []byte) []byte {
	content := []byte{}
	for len(stream) >= frameHeader {
		length := binary.BigEndian.Uint32(stream)
		if length == frameEnd || length > frameLimit {
			break
		}
		rest := stream[frameHeader:]
		n := min(int(length), len(rest))
		content, stream = append(content, rest[:n]...), rest[n:]
	}
	return content
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte(`{"cmd": "true"}`))
	f.Add([]byte(`{"cmd": "cat", "args": ["a"], "cwd": "/", "env": {"A": "b"}, "stdin": "aGk=", "encoding": "base64"}`))
	f.Add([]byte(`{"cmd": "x", "user": 0, "timeout_ms": 1, "max_output": 0, "tie": true}`))
	f.Add([]byte(`{"cmd": "x", "env": {"A=": "b"}, "max_output": -1}`))
	f.Fuzz(func(t *testing.T, params []byte) {
		var line string
		p, failure := decodeCommand(jsontext.Value(params), text("cmd", &line))
		if failure != nil {
			return
		}
		if p.maxOutput < 0 || p.maxOutput > maxOutputLimit || p.timeoutMS < 0 || p.directory == "" {
			t.Errorf("%q: %+v", params, p.settings)
		}
	})
}
