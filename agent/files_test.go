package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func mustRead(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestReadersSeeTheOldContentOrTheNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	contents := []string{strings.Repeat("a", 100_000), strings.Repeat("b", 200_000)}
	if err := replaceFile(path, []byte(contents[0])); err != nil {
		t.Fatal(err)
	}
	var writing sync.WaitGroup
	for i := range 4 {
		writing.Go(func() {
			for j := range 50 {
				if err := replaceFile(path, []byte(contents[(i+j)%2])); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 500 {
		if got := mustRead(t, path); got != contents[0] && got != contents[1] {
			t.Fatalf("a mixture of %d bytes", len(got))
		}
	}
	writing.Wait()
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d entries", len(entries))
	}
}

func TestReplaceFileWhereNoFileCanBeMade(t *testing.T) {
	// /proc takes no new files; this one takes a content.
	const path = "/proc/self/comm"
	if err := replaceFile(path, []byte("renamed")); err != nil {
		t.Fatal(err)
	}
	if got := mustRead(t, path); got != "renamed\n" {
		t.Errorf("%q", got)
	}
}

func TestReplaceFileWithTheLongestName(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	for _, content := range []string{"one", "two"} {
		if err := replaceFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got := mustRead(t, path); got != content {
			t.Errorf("%q", got)
		}
	}
}

func TestReadRegularLimits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{0, 1, 99, 100, 101, 5000} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		content, err := readRegular(path, 100)
		if (err == nil) != (size <= 100) || err == nil && len(content) != size {
			t.Errorf("%d bytes: %d, %v", size, len(content), err)
		}
	}
}

func TestFileErrorsNameTheErrno(t *testing.T) {
	_, err := readRegular("/nonexistent", 1)
	if got := fileError(err).errno; got != "ENOENT" {
		t.Errorf("%q", got)
	}
	if got := errnoName(syscall.EOVERFLOW); got != "E75" {
		t.Errorf("%q", got)
	}
}

func TestReadRegularReadsTheKernelsFilesAtOnce(t *testing.T) {
	const path = "/proc/sys/kernel/threads-max" // it has several digits, and says that it has no bytes
	expected, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found, err := readRegular(path, contentLimit)
	if err != nil || string(found) != string(expected) || len(found) < 3 {
		t.Errorf("%q, %v; expected %q", found, err, expected)
	}
}
