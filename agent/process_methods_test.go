package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAllWhoWatchAreToldEverything(t *testing.T) {
	_, path := testServer(t)
	first, second := connectHost(t, path), connectHost(t, path)
	// The process begins once both watch it.
	id := first.call("process.start", members{"cmd": "read go; seq 1 20000; echo $go >&2; exit 7", "stdin": true, "buffer": 4096})["id"].(string)
	state := second.call("process.attach", members{"id": id})
	if state["running"] != true {
		t.Errorf("%v", state)
	}
	first.call("process.stdin", members{"id": id, "data": "go\n", "close": true})
	wanted := ""
	for number := range 20000 {
		wanted += strconv.Itoa(number+1) + "\n"
	}
	for _, host := range []*testHost{first, second} {
		all := host.hear(id)
		if all.text["stdout"] != wanted || all.text["stderr"] != "go\n" || all.gaps != 0 {
			t.Errorf("%d bytes of %d, %q, %d gaps", len(all.text["stdout"]), len(wanted), all.text["stderr"], all.gaps)
		}
		if all.exit["exit_code"] != 7.0 || all.exit["signal"] != nil || all.exit["stdout"] != float64(len(wanted)) {
			t.Errorf("%v", all.exit)
		}
	}
}

func TestWhoAttachesLaterGetsWhatIsKept(t *testing.T) {
	_, path := testServer(t)
	host := connectHost(t, path)
	id := host.call("process.start", members{"cmd": "seq -w 1 5000", "watch": false, "buffer": 4096})["id"].(string)
	if ended := host.call("process.wait", members{"id": id}); ended["running"] != false || ended["stdout"] != 25000.0 {
		t.Fatalf("%v", ended)
	}
	streams := host.call("process.attach", members{"id": id})["streams"].(map[string]any)
	if stdout := streams["stdout"].(map[string]any); stdout["oldest"] != 25000.0-4096 || stdout["next"] != 25000.0 {
		t.Errorf("%v", stdout)
	}
	if all := host.hear(id); len(all.text["stdout"]) != 4096 || !strings.HasSuffix(all.text["stdout"], "4999\n5000\n") || all.gaps != 0 {
		t.Errorf("%d bytes, %d gaps", len(all.text["stdout"]), all.gaps)
	}
	// What is asked for and not kept any more is a gap.
	host.call("process.attach", members{"id": id, "offsets": members{"stdout": 100}})
	if all := host.hear(id); all.gaps != 1 || all.lost != 25000-4096-100 || len(all.text["stdout"]) != 4096 {
		t.Errorf("%d bytes, %d gaps of %d", len(all.text["stdout"]), all.gaps, all.lost)
	}
	host.call("process.forget", members{"id": id})
	if code, name := host.refused("process.attach", members{"id": id}); code != codeInternal || name != "ESRCH" {
		t.Errorf("%d %s", code, name)
	}
}

func TestAWatcherThatDoesNotReadDoesNotKeepTheEndFromOthers(t *testing.T) {
	t.Parallel()
	_, path := testServer(t)
	deaf, other := connectHost(t, path), connectHost(t, path)
	id := deaf.call("process.start", members{"cmd": "read go; seq -w 1 500000", "stdin": true, "buffer": 4096})["id"].(string)
	other.call("process.attach", members{"id": id})
	other.call("process.stdin", members{"id": id, "data": "go\n"})
	// It waits for the first, which takes no more than the socket does; killed, it has output left.
	for offset, same := 0.0, 0; same < 5; same++ {
		streams := other.call("process.attach", members{"id": id})["streams"].(map[string]any)
		if next := streams["stdout"].(map[string]any)["next"].(float64); next > offset || next == 0 {
			offset, same = next, 0
		}
		time.Sleep(50 * time.Millisecond)
	}
	began := time.Now()
	other.call("process.kill", members{"id": id})
	ended := other.call("process.wait", members{"id": id})
	if took := time.Since(began); took > stallGrace+testPatience/2 || ended["signal"] != "SIGKILL" {
		t.Errorf("%v after %s", ended, took)
	}
	all := deaf.hear(id)
	if all.gaps == 0 || float64(len(all.text["stdout"])+all.lost) != ended["stdout"] {
		t.Errorf("%d bytes and %d lost in %d gaps, of %v", len(all.text["stdout"]), all.lost, all.gaps, ended["stdout"])
	}
}

func TestCancelledRequestsEnd(t *testing.T) {
	_, path := testServer(t)
	host := connectHost(t, path)
	id := host.call("process.start", members{"cmd": "exec sleep 1000", "stdin": true, "watch": false})["id"].(string)
	for _, request := range []int{
		host.send("process.wait", members{"id": id}),
		host.send("process.stdin", members{"id": id, "data": strings.Repeat("x", 1<<20)}), // more than a pipe takes
		host.send("exec", members{"cmd": "sleep 1000 & wait"}),
	} {
		if known := host.call("cancel", members{"id": request})["cancelled"]; known != true {
			t.Errorf("request %d is not known", request)
		}
		if _, code := host.await(request); code != codeCancelled {
			t.Errorf("request %d is answered with %d", request, code)
		}
		if known := host.call("cancel", members{"id": request})["cancelled"]; known != false {
			t.Errorf("request %d can be cancelled again", request)
		}
	}
	if host.call("process.wait", members{"id": id, "timeout_ms": 0})["running"] != true {
		t.Error("a cancelled wait has ended the process")
	}
	host.call("process.kill", members{"id": id})
}

func TestOnlyWhatIsTiedEndsWithItsConnection(t *testing.T) {
	_, path := testServer(t)
	host, other := connectHost(t, path), connectHost(t, path)
	tied := host.call("process.start", members{"cmd": "sleep 1000 & wait", "tie": true})["id"].(string)
	free := host.call("process.start", members{"cmd": "exec sleep 1000"})["id"].(string)
	command := filepath.Join(t.TempDir(), "command")
	host.send("exec", members{"cmd": "echo $$ > " + command + "; exec sleep 1000", "tie": true})
	pid := 0
	for deadline := time.Now().Add(testPatience); pid == 0 && time.Now().Before(deadline); {
		content, _ := os.ReadFile(command)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(content)))
	}
	host.socket.Close()
	if ended := other.call("process.wait", members{"id": tied}); ended["signal"] != "SIGKILL" {
		t.Errorf("%v", ended)
	}
	for deadline := time.Now().Add(testPatience); syscall.Kill(pid, 0) != syscall.ESRCH; {
		if time.Now().After(deadline) {
			t.Fatalf("the command %d runs yet", pid)
		}
	}
	if other.call("process.wait", members{"id": free, "timeout_ms": 0})["running"] != true {
		t.Error("what was not tied has ended as well")
	}
	other.call("process.kill", members{"id": free})
}

func TestStandardInput(t *testing.T) {
	_, path := testServer(t)
	host := connectHost(t, path)
	id := host.call("process.start", members{"cmd": "cat; echo over", "stdin": true})["id"].(string)
	if host.call("process.stdin", members{"id": id, "data": "one\n"})["written"] != 4.0 {
		t.Error("not all was written")
	}
	if host.call("process.stdin", members{"id": id, "data": "AAEC", "encoding": "base64", "close": true})["written"] != 3.0 {
		t.Error("not all bytes were written")
	}
	if code, name := host.refused("process.stdin", members{"id": id, "data": "late"}); code != codeInternal || name != "EPIPE" {
		t.Errorf("%d %s", code, name)
	}
	if all := host.hear(id); all.text["stdout"] != "one\n\x00\x01\x02over\n" {
		t.Errorf("%q", all.text)
	}
	// One that was not asked for reads nothing.
	id = host.call("process.start", members{"argv": []string{"cat"}})["id"].(string)
	if all := host.hear(id); all.exit["exit_code"] != 0.0 {
		t.Errorf("%v", all.exit)
	}
	if code, name := host.refused("process.stdin", members{"id": id, "data": "x"}); code != codeInternal || name != "EPIPE" {
		t.Errorf("%d %s", code, name)
	}
}

func TestSignalsReachTheProcessOrAllOfIt(t *testing.T) {
	_, path := testServer(t)
	host := connectHost(t, path)
	id := host.call("process.start", members{"cmd": "trap 'echo caught' USR1; echo ready; while :; do sleep 0.01; done"})["id"].(string)
	if _, said := host.next(); said["data"] != "ready\n" {
		t.Fatalf("%v", said)
	}
	host.call("process.signal", members{"id": id, "signal": "USR1"})
	if _, said := host.next(); said["data"] != "caught\n" {
		t.Errorf("%v", said)
	}
	if code, name := host.refused("process.signal", members{"id": id, "signal": "NONE"}); code != codeInternal || name != "EINVAL" {
		t.Errorf("%d %s", code, name)
	}
	if code, name := host.refused("process.forget", members{"id": id}); code != codeInternal || name != "EBUSY" {
		t.Errorf("%d %s", code, name)
	}
	host.call("process.signal", members{"id": id, "signal": int(syscall.SIGTERM), "all": true})
	if all := host.hear(id); all.exit["signal"] != "SIGTERM" || all.exit["exit_code"] != 128.0+15 {
		t.Errorf("%v", all.exit)
	}
	if code, name := host.refused("process.signal", members{"id": id, "signal": "TERM"}); code != codeInternal || name != "ESRCH" {
		t.Errorf("%d %s", code, name)
	}
	host.call("process.kill", members{"id": id}) // as it shall be
	host.call("process.forget", members{"id": id})
	if known := host.call("process.list", nil)["processes"].([]any); len(known) != 0 {
		t.Errorf("%v", known)
	}
}

func TestATerminal(t *testing.T) {
	_, path := testServer(t)
	host := connectHost(t, path)
	id := host.call("process.start", members{"cmd": "stty size; read line; stty size; echo $TERM $line; cat",
		"pty": members{"rows": 7, "columns": 33}})["id"].(string)
	host.call("process.resize", members{"id": id, "rows": 8, "columns": 44})
	host.call("process.stdin", members{"id": id, "data": "typed\n"})
	host.call("process.stdin", members{"id": id, "data": "", "close": true}) // Ctrl-D ends cat
	all := host.hear(id)
	said := all.text["terminal"]
	if !strings.Contains(said, "8 44\r\n") || !strings.Contains(said, "xterm-256color typed\r\n") || all.exit["exit_code"] != 0.0 {
		t.Errorf("%q %v", said, all.exit)
	}
	if code, name := host.refused("process.resize", members{"id": id, "rows": 8, "columns": 44}); code != codeInternal || name != "ESRCH" {
		t.Errorf("%d %s", code, name)
	}
}
