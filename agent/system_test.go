package main

import (
	"encoding/json/jsontext"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestResumeDoesEachPartOnceForAToken(t *testing.T) {
	state := filepath.Join(t.TempDir(), "run", "resume")
	counts := map[string]int{}
	var failure error
	parts := []part{
		{"clock", func() (bool, error) { counts["clock"]++; return true, nil }},
		{"network", func() (bool, error) { counts["network"]++; return failure == nil, failure }},
		{"same", func() (bool, error) { counts["same"]++; return false, nil }},
	}
	run := func(token string) resumed {
		t.Helper()
		result, err := resume(state, token, parts)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	failure = errors.New("no server")
	if got := run("one"); got.repeated || !slices.Equal(got.changed, []string{"clock"}) || len(got.failed) != 1 || got.failed[0].name != "network" {
		t.Errorf("%+v", got)
	}
	failure = nil
	if got := run("one"); !got.repeated || !slices.Equal(got.changed, []string{"network"}) || len(got.failed) != 0 {
		t.Errorf("%+v", got)
	}
	if got := run("one"); !got.repeated || len(got.changed) != 0 {
		t.Errorf("%+v", got)
	}
	if got := run("two"); got.repeated || !slices.Equal(got.changed, []string{"clock", "network"}) {
		t.Errorf("%+v", got)
	}
	if counts["clock"] != 2 || counts["network"] != 3 || counts["same"] != 2 {
		t.Error(counts)
	}
}

func TestNewMachineID(t *testing.T) {
	directory := t.TempDir()
	place, copy := filepath.Join(directory, "machine-id"), filepath.Join(directory, "bus")
	if changed, err := newMachineID(place, copy); changed || err != nil {
		t.Error("a machine without an id got one", err)
	}
	for _, path := range []string{place, copy} {
		if err := os.WriteFile(path, []byte("old\n"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for range 3 {
		if changed, err := newMachineID(place, copy); !changed || err != nil {
			t.Fatal(err)
		}
		id := mustRead(t, place)
		if len(id) != 33 || seen[id] || mustRead(t, copy) != id {
			t.Errorf("%q", id)
		}
		seen[id] = true
	}
	if status, err := os.Stat(place); err != nil || status.Mode() != 0o444 {
		t.Error(status.Mode(), err)
	}
}

func TestHostnames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "clone-7.example": true, "": false, "-a": false, "a-": false, "a..b": false, "a b": false,
		"a\n": false, "ä": false, strings.Repeat("a", 65): false,
	} {
		if validHostname(name) != want {
			t.Errorf("%q", name)
		}
	}
	const hosts = "127.0.0.1\tlocalhost\n127.0.1.1 old alias # old\n# old\nold new\n"
	if got := renameHost(hosts, "old", "new"); got != "127.0.0.1\tlocalhost\n127.0.1.1\tnew\talias # old\n# old\nold new\n" {
		t.Errorf("%q", got)
	}
}

func TestKernelLines(t *testing.T) {
	number, at, line, valid := kernelLine([]byte("6,339,5140900,-;NET: Registered\n SUBSYSTEM=acpi\n"))
	if number != 339 || at != 5140900*time.Microsecond || line != "[5.140900] NET: Registered" || !valid {
		t.Errorf("%d %s %q %t", number, at, line, valid)
	}
	for _, wrong := range []string{"", "6,339", "6,x,1,-;m", "6,1,-;m"} {
		if _, _, _, valid := kernelLine([]byte(wrong)); valid {
			t.Errorf("%q", wrong)
		}
	}
}

func TestTheJournalIsAskedForMicroseconds(t *testing.T) {
	options := logRequest{unit: "u", since: 1700000000_000000001}.journalOptions(5)
	for _, wanted := range []string{"--lines=5", "--unit=u", "--since=@1700000000.000001"} {
		if !slices.Contains(options, wanted) {
			t.Errorf("no %s in %q", wanted, options)
		}
	}
}

func TestJournalLines(t *testing.T) {
	got := splitJournal("one\ntwo\n  more\n-- cursor: s=1;i=2\n", 2)
	if !slices.Equal(got.lines, []string{"two", "  more"}) || got.cursor != "s=1;i=2" || !got.more {
		t.Errorf("%+v", got)
	}
}

func TestSystemObjectsAreJSON(t *testing.T) {
	for _, value := range []object{systemInfo(), testAgent().systemMetrics(), resumed{
		changed: []string{"clock"}, failed: []partFailure{{"network", syscall.ENODEV}, {"x", errNoRenewer}},
	}.object()} {
		if text := jsontext.Value(value.end()); !text.IsValid() {
			t.Errorf("%s", text)
		}
	}
}

func TestDeviceNumbers(t *testing.T) {
	for _, device := range []uint64{0x0103, 0x0801, 0xfff00fff00, 0x12345678} {
		major, minor := deviceParts(device)
		if got := makeDevice(uint64(major), uint64(minor)); uint64(got) != device {
			t.Errorf("%x: %x", device, got)
		}
	}
}
