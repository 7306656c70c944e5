package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAnUploadIsCompleteOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "file")
	mode := uint32(0o4750)
	buffer := make([]byte, 16)
	if err := receiveFile(bytes.NewReader(bytes.Repeat([]byte("x"), 100)), path, &mode, true, buffer); err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(bytes.NewReader(make([]byte, 50)), brokenReader{})
	if err := receiveFile(broken, path, nil, true, buffer); !errors.Is(err, errAborted) {
		t.Error(err)
	}
	if err := receiveFile(broken, path+"-new", nil, true, buffer); err == nil {
		t.Error("an aborted upload is none")
	}
	var status syscall.Stat_t
	if err := syscall.Stat(path, &status); err != nil || status.Mode&0o7777 != mode || status.Size != 100 {
		t.Errorf("mode %o, %d bytes, %v", status.Mode, status.Size, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d entries", len(entries))
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errAborted }

func TestAnUploadReplacesOnlyFiles(t *testing.T) {
	directory := t.TempDir()
	fifo, link := filepath.Join(directory, "fifo"), filepath.Join(directory, "link")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, link, directory, directory + "/x/"} {
		if err := receiveFile(bytes.NewReader(nil), path, nil, true, make([]byte, 16)); err == nil {
			t.Errorf("%s was replaced", path)
		}
	}
}

func TestWritingAtAnOffset(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "file")
	mode := uint32(0o600)
	for _, step := range []struct {
		change change
		want   string
	}{
		{change{data: []byte("end"), offset: 4, mode: &mode}, "\x00\x00\x00\x00end"},
		{change{data: []byte("new"), offset: 0}, "new\x00end"},
		{change{data: []byte("!"), offset: 3, truncate: true}, "new!"},
		{change{data: []byte("+"), offset: -1, appending: true}, "new!+"},
		{change{data: []byte("all"), offset: -1}, "all"},
	} {
		if err := step.change.apply(path); err != nil {
			t.Fatal(err)
		}
		if got := mustRead(t, path); got != step.want {
			t.Errorf("%q, not %q", got, step.want)
		}
	}
	if status, err := os.Stat(path); err != nil || status.Mode() != 0o600 {
		t.Error(status.Mode(), err)
	}
}

func TestReadingAPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		offset int64
		length int
		want   string
		atEnd  bool
	}{{0, 10, "0123456789", true}, {0, 9, "012345678", false}, {5, 100, "56789", true}, {10, 1, "", true}, {99, 1, "", true}, {3, 0, "", false}} {
		got, err := readPart(path, c.offset, c.length)
		if err != nil || string(got.data) != c.want || got.atEnd != c.atEnd || got.size != 10 {
			t.Errorf("%+v: %q, %t, %d, %v", c, got.data, got.atEnd, got.size, err)
		}
	}
	if got, err := readPart("/proc/self/status", 0, 1<<20); err != nil || !got.atEnd || len(got.data) < 100 {
		t.Errorf("%d bytes, %t, %v", len(got.data), got.atEnd, err)
	}
}
