package main

import (
	"errors"
	"strconv"
	"sync"
	"testing"
)

// endedProcess is one that has ended, and whose streams hold nothing.
func endedProcess() *process {
	p := &process{finished: make(chan struct{}), watchers: map[*connection]*watcher{}}
	p.changed = sync.NewCond(&p.lock)
	close(p.finished)
	return p
}

func TestTheProcessThatEndedFirstIsForgottenForAnother(t *testing.T) {
	var all processes
	started := func() error { return nil }
	list := make([]*process, processLimit)
	for i := range list {
		list[i] = endedProcess()
		if err := all.add(list[i], started); err != nil {
			t.Fatal(err)
		}
	}
	if err := all.add(endedProcess(), started); !errors.Is(err, errTooManyProcesses) {
		t.Errorf("all run, and yet: %v", err)
	}
	all.end(list[7])
	all.end(list[3])
	failure := errors.New("not started")
	if err := all.add(endedProcess(), func() error { return failure }); err != failure {
		t.Error(err)
	}
	if all.find(list[7].id) == nil {
		t.Error("it was forgotten for one that was not started")
	}
	if err := all.add(endedProcess(), started); err != nil {
		t.Error(err)
	}
	if all.find(list[7].id) != nil || all.find(list[3].id) == nil || len(all.known) != processLimit {
		t.Error("not the one that ended first was forgotten")
	}
	all.forget(list[3])
	all.end(list[3])
	if len(all.ended) != 0 || all.find(list[3].id) != nil {
		t.Error("what was forgotten has ended")
	}
	seen := map[string]bool{}
	for i, p := range all.all() {
		if seen[p.id] || p.number < i {
			t.Error("a second " + p.id + " of number " + strconv.Itoa(p.number))
		}
		seen[p.id] = true
	}
}
