package main

import (
	"testing"
	"time"
)

func TestStartsAreBoundedInAWindow(t *testing.T) {
	var limit startLimit
	began := time.Now()
	for i := range agentStarts {
		if !limit.take(began.Add(time.Duration(i) * time.Second)) {
			t.Fatalf("start %d is refused", i)
		}
	}
	if limit.take(began.Add(agentWindow)) {
		t.Error("there were as many as may be")
	}
	// The first is out of the window, and no other.
	later := began.Add(agentWindow + time.Millisecond)
	if !limit.take(later) || limit.take(later) {
		t.Error("one more may be now, not two")
	}
	if len(limit) != agentStarts {
		t.Errorf("%d are remembered", len(limit))
	}
}

func TestALifelineTellsACrashFromAnEnd(t *testing.T) {
	for said, over := range map[string]bool{"": false, "+": false, "+.": true, ".": true} {
		lifeline, agent, err := pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := agent.WriteString(said); err != nil {
			t.Fatal(err)
		}
		agent.Close()
		if isOver(lifeline) != over {
			t.Errorf("%q: %v", said, !over)
		}
		lifeline.Close()
	}
}
