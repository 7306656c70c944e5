package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// testPatience is far more than an answer takes, on busy machines.
const testPatience = 30 * time.Second

// testServer starts an agent in this process, and returns where it listens.
func testServer(t *testing.T) (*agent, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	idle, err := newIdleConnections()
	if err != nil {
		t.Fatal(err)
	}
	a := testAgent()
	a.idle = idle
	go a.idle.serve(a)
	listening, err := listenUnix(path, syscall.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	accepting := make(chan struct{})
	go func() {
		a.acceptAll(listening)
		close(accepting)
	}()
	t.Cleanup(func() {
		listening.close()
		<-accepting
		for _, p := range a.processes.all() {
			if p.running() {
				_ = a.signal(p, syscall.SIGKILL, true)
			}
		}
		select {
		case <-a.served():
		case <-time.After(testPatience):
			t.Error("connections or processes are left")
		}
	})
	return a, path
}

// members are a JSON object's.
type members map[string]any

// hostSocket is a socket that is waited for.
type hostSocket interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// testHost is a host's end of a connection.
type testHost struct {
	t       *testing.T
	socket  hostSocket
	lines   *bufio.Reader
	asked   int
	answers map[int]members // that came before they were waited for
	told    []members       // notifications that were not looked at
}

func connectHost(t *testing.T, path string) *testHost {
	t.Helper()
	socket, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return hostOf(t, socket)
}

// hostOf is the host at an end of a connection.
func hostOf(t *testing.T, socket hostSocket) *testHost {
	t.Helper()
	t.Cleanup(func() { socket.Close() })
	_ = socket.SetReadDeadline(time.Now().Add(2 * testPatience))
	return &testHost{t: t, socket: socket, lines: bufio.NewReaderSize(socket, 1<<16), answers: map[int]members{}}
}

// send sends a request, and returns its id.
func (h *testHost) send(method string, params members) int {
	h.t.Helper()
	h.asked++
	line, err := json.Marshal(members{"jsonrpc": "2.0", "id": h.asked, "method": method, "params": params})
	if err == nil {
		_, err = h.socket.Write(append(line, '\n'))
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return h.asked
}

// read reads a message, and keeps it.
func (h *testHost) read() {
	h.t.Helper()
	line, err := h.lines.ReadBytes('\n')
	if err != nil {
		h.t.Fatal(err)
	}
	var message members
	if err := json.Unmarshal(line, &message); err != nil {
		h.t.Fatal(err)
	}
	if id, answer := message["id"].(float64); answer {
		h.answers[int(id)] = message
		return
	}
	h.told = append(h.told, message)
}

// await waits for the answer to a request: its result, or its error's code.
func (h *testHost) await(id int) (members, int) {
	h.t.Helper()
	for h.answers[id] == nil {
		h.read()
	}
	answer := h.answers[id]
	delete(h.answers, id)
	if failure, failed := answer["error"].(map[string]any); failed {
		return failure, int(failure["code"].(float64))
	}
	return answer["result"].(map[string]any), 0
}

// call sends a request that must not fail, and returns its result.
func (h *testHost) call(method string, params members) members {
	h.t.Helper()
	result, code := h.await(h.send(method, params))
	if code != 0 {
		h.t.Fatalf("%s %v: %v", method, params, result)
	}
	return result
}

// refused sends a request that must fail, and returns its code, and the error's name if there is one.
func (h *testHost) refused(method string, params members) (int, string) {
	h.t.Helper()
	result, code := h.await(h.send(method, params))
	if code == 0 {
		h.t.Errorf("%s %v: %v", method, params, result)
	}
	data, _ := result["data"].(map[string]any)
	name, _ := data["errno"].(string)
	return code, name
}

// next waits for a notification.
func (h *testHost) next() (method string, params members) {
	h.t.Helper()
	for len(h.told) == 0 {
		h.read()
	}
	message := h.told[0]
	h.told = h.told[1:]
	return message["method"].(string), message["params"].(map[string]any)
}

// heard is what a connection was told of a process until its end.
type heard struct {
	text map[string]string // by stream
	gaps int
	lost int
	exit members
}

// hear reads all that a connection is told of a process, whose bytes must be told in order.
func (h *testHost) hear(id string) heard {
	h.t.Helper()
	all := heard{text: map[string]string{}}
	next := map[string]float64{}
	for {
		method, params := h.next()
		if params["id"] != id {
			h.t.Fatalf("%s of another: %v", method, params)
		}
		if method == "process.exit" {
			all.exit = params
			return all
		}
		stream := params["stream"].(string)
		if offset, known := next[stream]; known && params["offset"] != offset {
			h.t.Errorf("%s goes on at %v, not %v", stream, params["offset"], offset)
		}
		switch method {
		case "process.output":
			data := params["data"].(string)
			all.text[stream] += data
			next[stream] = params["offset"].(float64) + float64(len(data))
		case "process.gap":
			all.gaps++
			all.lost += int(params["length"].(float64))
			next[stream] = params["offset"].(float64) + params["length"].(float64)
		default:
			h.t.Fatal(method)
		}
	}
}
