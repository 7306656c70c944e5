package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// captured starts a capture of a new pipe and returns both, the writing end open.
func captured(t *testing.T) (*capture, *os.File) {
	t.Helper()
	reader, writer, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { writer.Close() })
	return startCapture(reader, outputLimit), writer
}

func write(t *testing.T, file *os.File, content string) {
	t.Helper()
	if _, err := file.WriteString(content); err != nil {
		t.Fatal(err)
	}
}

func TestCaptureReadsToTheEnd(t *testing.T) {
	c, writer := captured(t)
	content := strings.Repeat("0123456789", 50_000)
	write(t, writer, content)
	writer.Close()
	if got := c.text(false); string(got) != content {
		t.Errorf("%d bytes, not %d", len(got), len(content))
	}
}

func TestCaptureTakesWhatIsThereWhenTheGraceIsOver(t *testing.T) {
	// The deadline has passed before anything can be read, and the pipe is never closed.
	reader, writer, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	content := strings.Repeat("x", 60_000)
	write(t, writer, content)
	if err := reader.SetReadDeadline(time.Unix(0, 1)); err != nil {
		t.Fatal(err)
	}
	if got := startCapture(reader, outputLimit).text(false); string(got) != content {
		t.Errorf("%d bytes, not %d", len(got), len(content))
	}
}

func TestCaptureReadsOnAfterTheGrace(t *testing.T) {
	c, writer := captured(t)
	write(t, writer, "kept")
	if err := c.pipe.SetReadDeadline(time.Unix(0, 1)); err != nil {
		t.Fatal(err)
	}
	if got := string(c.text(false)); got != "kept" {
		t.Errorf("%q", got)
	}
	// Far more than a pipe holds: it would block if nobody read it, and fail if it were closed.
	write(t, writer, strings.Repeat("y", 1_000_000))
	if got := string(c.text(false)); got != "kept" {
		t.Errorf("%q", got)
	}
}

func TestCaptureCutsBetweenCharacters(t *testing.T) {
	for _, character := range []string{"x", "é", "€", "😀", "\xff", "\x80"} {
		for offset := range 4 {
			c, writer := captured(t)
			write(t, writer, strings.Repeat("x", offset)+strings.Repeat(character, outputLimit+1))
			writer.Close()
			body, marked := strings.CutSuffix(string(c.text(false)), outputMark)
			lost := outputLimit - len(body)
			if !marked || lost < 0 || lost >= len(character) || utf8.ValidString(character) != utf8.ValidString(body) {
				t.Errorf("%q at %d: %d bytes short, marked %v", character, offset, lost, marked)
			}
		}
	}
}

func FuzzCutText(f *testing.F) {
	f.Add([]byte("aé€😀"), uint8(3))
	f.Add([]byte("\xf0\x9f\x98\xff\xc3"), uint8(4))
	f.Fuzz(func(t *testing.T, content []byte, limit uint8) {
		cut := cutText(content, int(limit))
		if len(cut) > int(limit) || !bytes.HasPrefix(content, cut) || len(cut) < min(int(limit), len(content))-3 {
			t.Errorf("%q of %q", cut, content)
		}
		if utf8.Valid(content) && !utf8.Valid(cut) {
			t.Errorf("%q is not UTF-8", cut)
		}
	})
}
