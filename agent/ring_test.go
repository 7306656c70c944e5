package main

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
)

// filled returns a ring that has read a text, in pieces of a length, and the texts that it gave up none of.
func filled(t *testing.T, size int64, content string, piece int) *ring {
	t.Helper()
	r := newRing(size)
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_NONBLOCK|syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(ends[0])
	defer syscall.Close(ends[1])
	for len(content) > 0 {
		n := min(piece, len(content))
		if _, err := syscall.Write(ends[1], []byte(content[:n])); err != nil {
			t.Fatal(err)
		}
		content = content[n:]
		for {
			if _, err := r.fill(ends[0], r.next); err == syscall.EAGAIN {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	return &r
}

func TestARingKeepsTheLastBytes(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 100)
	for _, size := range []int64{ringLeast, ringLeast + 1} {
		for _, length := range []int{0, 1, 1000, len(content)} {
			for _, piece := range []int{1, 7, 1600} {
				r := filled(t, size, strings.Repeat(content[:length], 7), piece)
				total := int64(7 * length)
				if r.next != total || r.oldest != max(0, total-size) {
					t.Fatalf("size %d: from %d to %d of %d", size, r.oldest, r.next, total)
				}
				want := strings.Repeat(content[:length], 7)[r.oldest:]
				if got := r.copyFrom(r.oldest, make([]byte, size)); !bytes.Equal(got, []byte(want)) {
					t.Errorf("size %d, %d bytes in pieces of %d: another content", size, total, piece)
				}
				r.release()
			}
		}
	}
}

func TestWhatMustStayIsNotGivenUp(t *testing.T) {
	r := filled(t, ringLeast, strings.Repeat("x", ringLeast), 512)
	defer r.release()
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_NONBLOCK|syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(ends[0])
	defer syscall.Close(ends[1])
	if _, err := syscall.Write(ends[1], make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	stays := int64(100)
	if n, err := r.fill(ends[0], stays); n != 100 || err != nil || r.oldest != stays {
		t.Errorf("%d bytes, %v, the oldest is %d", n, err, r.oldest)
	}
}

func TestWithoutRoomNothingIsRead(t *testing.T) {
	r := filled(t, ringLeast, strings.Repeat("x", 2*ringLeast), 512)
	defer r.release()
	// A watcher may come that wants the oldest byte, or one that is gone.
	for _, stays := range []int64{r.oldest, r.oldest - 1, 0} {
		if n, err := r.fill(-1, stays); n != 0 || err != errNoRoom {
			t.Errorf("from %d on: %d bytes, %v", stays, n, err)
		}
	}
}

func TestRingsShareABudget(t *testing.T) {
	before := ringBytes.Load()
	var rings []ring
	for range 2 * ringBudget / ringMost {
		rings = append(rings, newRing(ringMost))
	}
	if last := rings[len(rings)-1].size; last != ringLeast {
		t.Errorf("the last has %d bytes", last)
	}
	for i := range rings {
		rings[i].release()
	}
	if after := ringBytes.Load(); after != before {
		t.Errorf("%d bytes are held for nothing", after-before)
	}
}
