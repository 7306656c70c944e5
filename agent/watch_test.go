package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWatchFollowsATree(t *testing.T) {
	root := t.TempDir()
	directory := filepath.Join(root, "watched")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(directory, "old"), 0o755))
	told := make(chan string, 1000)
	before := watchedDirectories.Load()
	w, err := newWatch(directory, true, func(c fileChange) {
		name := func(path string) string { return strings.TrimPrefix(path, directory+"/") }
		told <- strings.TrimSpace(c.event + " " + name(c.path) + " " + name(c.from))
	})
	must(err)
	done := make(chan struct{})
	go func() {
		w.run()
		close(done)
	}()
	await := func(wanted string) {
		t.Helper()
		var seen []string
		for deadline := time.After(20 * time.Second); ; {
			select {
			case got := <-told:
				if seen = append(seen, got); got == wanted {
					return
				}
			case <-deadline:
				t.Fatalf("%q was not told, but %q", wanted, seen)
			}
		}
	}
	must(os.WriteFile(filepath.Join(directory, "old/f"), []byte("x"), 0o600))
	await("created old/f")
	await("modified old/f")
	must(os.Chmod(filepath.Join(directory, "old/f"), 0o644))
	await("attributes old/f")
	must(os.MkdirAll(filepath.Join(directory, "new/deep"), 0o755))
	must(os.WriteFile(filepath.Join(directory, "new/deep/g"), nil, 0o600))
	await("created new/deep/g")
	must(os.Rename(filepath.Join(directory, "new"), filepath.Join(directory, "newer")))
	await("moved newer new")
	must(os.Remove(filepath.Join(directory, "newer/deep/g")))
	await("removed newer/deep/g")
	must(os.Rename(filepath.Join(directory, "newer"), filepath.Join(root, "gone")))
	await("removed newer")
	must(os.Rename(filepath.Join(root, "gone"), filepath.Join(directory, "back")))
	await("created back")
	await("created back/deep")
	w.close()
	<-done
	if after := watchedDirectories.Load(); after != before {
		t.Errorf("%d directories are watched yet", after-before)
	}
}

func TestAWatchTellsThatChangesWereLost(t *testing.T) {
	told := ""
	w := &watch{root: "/r", tell: func(c fileChange) { told = c.event }, paths: map[int32]string{}}
	w.event(inotifyEvent{watch: -1, mask: 0x4000}, "") // IN_Q_OVERFLOW
	if told != changesLost {
		t.Errorf("%q", told)
	}
}

func TestWatchesOfWhatIsNotThere(t *testing.T) {
	before := openWatches.Load()
	if _, err := newWatch("/nonexistent", false, nil); err == nil {
		t.Error("nothing is watched")
	}
	if openWatches.Load() != before {
		t.Error("a place stays taken")
	}
}
