package main

import (
	"strconv"
	"syscall"
	"testing"
)

func TestSignalsByNameAndNumber(t *testing.T) {
	for text, wanted := range map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "SIGTERM": syscall.SIGTERM, "15": syscall.SIGTERM, "KILL": syscall.SIGKILL,
		"SIGWINCH": syscall.SIGWINCH, "1": syscall.SIGHUP, "64": 64,
	} {
		if number, known := parseSignal(text); !known || number != wanted {
			t.Errorf("%s is %d, %v", text, number, known)
		}
	}
	for _, wrong := range []string{"", "0", "-1", "65", "term", "SIGSIGTERM", "SIG", "9x"} {
		if number, known := parseSignal(wrong); known {
			t.Errorf("%q is %d", wrong, number)
		}
	}
}

func TestEverySignalHasANameThatIsReadBack(t *testing.T) {
	for number := syscall.Signal(1); number <= lastSignal; number++ {
		name := signalName(number)
		if _, own := signalNames[number]; !own {
			if name != "SIG"+strconv.Itoa(int(number)) {
				t.Errorf("%d is %s", number, name)
			}
			continue
		}
		if back, known := parseSignal(name); !known || back != number {
			t.Errorf("%s is %d, not %d", name, back, number)
		}
	}
}
