package main

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// testChildren are one for all tests: a process has one collector.
var testChildren = sync.OnceValue(func() *children {
	c := newChildren()
	close(c.threads) // tests need no reserve
	return c
})

func testAgent() *agent {
	return &agent{children: testChildren(), connections: map[int]*connection{}}
}

func TestEveryCommandGetsItsOwnStatus(t *testing.T) {
	a := testAgent()
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			// Orphans end at the same time, and other children by being killed.
			want := i % 256
			command := "(true &); (true &); exit " + strconv.Itoa(want)
			if i%5 == 0 {
				want, command = 128+int(syscall.SIGKILL), "(true &); kill -9 $$"
			}
			if got := a.run("sh", "-c", command); got.exitCode != want {
				t.Errorf("%d, not %d: %s", got.exitCode, want, got.stderr)
			}
		})
	}
	all.Wait()
	if left := len(a.children.running); left != 0 {
		t.Errorf("%d still registered", left)
	}
}

func TestSpawnFailures(t *testing.T) {
	a := testAgent()
	for _, argv := range [][]string{{"no-such-program-52"}, {"/etc/passwd"}, {"/nonexistent/x"}, {"sh", "-c", "a\x00b"}} {
		if got := a.run(argv...); got.exitCode != spawnFailed || len(got.stderr) == 0 || len(got.stdout) != 0 {
			t.Errorf("%q: %d %q", argv, got.exitCode, got.stderr)
		}
	}
}

func TestNoDescriptorsLeak(t *testing.T) {
	a := testAgent()
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	a.run("true")
	before := count()
	for range 50 {
		a.run("true")
		a.run("/etc/passwd")
	}
	// The captures close their pipes just after they have delivered.
	for deadline := time.Now().Add(10 * time.Second); count() > before && time.Now().Before(deadline); {
		a.run("true")
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func TestChildrenInheritNoDescriptors(t *testing.T) {
	a := testAgent()
	l, err := listenUnix(filepath.Join(t.TempDir(), "s"), syscall.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	reader, writer, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	for _, file := range []*os.File{l.file, reader, writer} {
		name := "/proc/self/fd/" + strconv.Itoa(int(file.Fd()))
		if got := a.run("test", "-e", name); got.exitCode != 1 {
			t.Errorf("a child has %s", name)
		}
	}
}
