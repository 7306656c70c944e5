package main

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// The files of these groups are written here as the kernel would: cgroups(7). Real groups are in the tests
// that boot machines.

func writeGroup(t *testing.T, group *cgroup, file, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(group.path, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestGroupsAreUsedAgainOnceTheyAreEmpty(t *testing.T) {
	g := cgroups{directory: t.TempDir()}
	first, second := g.take(), g.take()
	if first == nil || second == nil || first.path == second.path {
		t.Fatalf("%+v, %+v", first, second)
	}
	writeGroup(t, first, "cgroup.events", "populated 1\nfrozen 0\n")
	g.give(first) // what its command has left behind is in it yet
	if g.take() == first || len(g.lingering) != 1 {
		t.Error("a group with processes was given to another command")
	}
	writeGroup(t, first, "cgroup.events", "populated 0\nfrozen 0\n")
	if g.take() != first || len(g.lingering) != 0 {
		t.Error("the group is empty and was not used again")
	}
	g.give(nil) // of a command that had none
}

func TestOnlyAFewEmptyGroupsAreKept(t *testing.T) {
	g := cgroups{directory: t.TempDir()}
	var all []*cgroup
	for range idleGroups + 3 {
		all = append(all, g.take())
	}
	for _, group := range all {
		g.give(group)
	}
	left, err := os.ReadDir(g.directory)
	if err != nil || len(left) != idleGroups || len(g.idle) != idleGroups {
		t.Errorf("%d are left, %d are kept: %v", len(left), len(g.idle), err)
	}
}

func TestOnlyKillsOfTheGroupsOwnCommandCount(t *testing.T) {
	g := cgroups{directory: t.TempDir()}
	group := g.take()
	if group.oomKilled() {
		t.Error("nothing was killed")
	}
	writeGroup(t, group, "memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
	if !group.oomKilled() {
		t.Error("two processes were killed")
	}
	g.give(group)
	if again := g.take(); again != group || again.oomKilled() {
		t.Error("those were another command's")
	}
	if (*cgroup)(nil).oomKilled() {
		t.Error("without a group nothing is known")
	}
}

func TestAGroupIsKilledAsAWhole(t *testing.T) {
	g := cgroups{directory: t.TempDir()}
	group := g.take()
	group.kill()
	if asked, err := os.ReadFile(filepath.Join(group.path, "cgroup.kill")); err != nil || string(asked) != "1" {
		t.Errorf("%q, %v", asked, err)
	}
	a := testAgent()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	victim, err := a.children.start(launch{program: "/bin/sleep", argv: []string{"sleep", "1000"},
		directory: "/", streams: [3]*os.File{null, null, null}})
	if err != nil {
		t.Fatal(err)
	}
	writeGroup(t, group, "cgroup.procs", "1\nnone\n"+strconv.Itoa(victim.pid)+"\n")
	group.signal(syscall.SIGKILL)
	<-victim.ended
	if victim.endedBy() != "SIGKILL" {
		t.Errorf("it ended with %d", victim.exitCode())
	}
}

func TestWithoutControlGroupsCommandsHaveNone(t *testing.T) {
	g := cgroups{off: true}
	if group := g.take(); group != nil {
		t.Errorf("%+v", group)
	}
	g = cgroups{directory: "/nonexistent"}
	if group := g.take(); group != nil {
		t.Errorf("%+v", group)
	}
}

func TestAKilledSessionStartsNothingMore(t *testing.T) {
	a := testAgent()
	for range 300 {
		// It starts processes as fast as it can, in its session.
		reader, writer, err := pipe()
		if err != nil {
			t.Fatal(err)
		}
		started, err := a.children.start(launch{program: "/bin/sh", directory: "/",
			argv:    []string{"sh", "-c", "echo; while :; do (sleep 1000 &) ; done"},
			streams: [3]*os.File{os.Stdin, writer, writer}})
		writer.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := readPiece(reader, func([]byte) {}); err != nil {
			t.Fatal(err)
		}
		signalSession(started.pid, syscall.SIGKILL)
		<-started.ended
		// All of them had the pipe: it ends with the last.
		_ = reader.SetReadDeadline(time.Now().Add(testPatience))
		for open := true; open; {
			if err := readPiece(reader, func(piece []byte) { open = len(piece) > 0 }); err != nil {
				t.Fatal(err)
			}
		}
		reader.Close()
	}
}
