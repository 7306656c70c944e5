package main

import (
	"bytes"
	"encoding/json/jsontext"
	"strings"
	"testing"
)

func TestDecodeRequest(t *testing.T) {
	cases := []struct {
		line, id, method string
		code             int
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"ping"}`, "1", "ping", 0},
		{`{"method":"ping","params":{"a":[1,{}]},"id":"x","jsonrpc":"2.0"}`, `"x"`, "ping", 0},
		{`{"jsonrpc":"2.0","id":1.5e3,"method":"p\u0069ng"}`, "1.5e3", "ping", 0},
		{`{"jsonrpc":"2.0","method":"ping"}`, "", "ping", 0},
		{`{"jsonrpc":"2.0","id":1,"method":"ping"`, "", "", codeParse},
		{`{"jsonrpc":"2.0","id":1,"method":"ping"} 1`, "", "", codeParse},
		{`[`, "", "", codeParse},
		{`[]`, "", "", codeInvalidRequest},
		{`{"jsonrpc":"2.0","id":{},"method":"ping"}`, "", "", codeInvalidRequest},
		{`{"jsonrpc":2.0,"id":1,"method":"ping"}`, "1", "", codeInvalidRequest},
	}
	for _, c := range cases {
		got, failure := decodeRequest([]byte(c.line))
		code := 0
		if failure != nil {
			code = failure.code
		}
		if string(got.id) != c.id || got.method != c.method || code != c.code {
			t.Errorf("%s: id %s, method %q, code %d", c.line, got.id, got.method, code)
		}
	}
}

func TestParamsOutliveTheLine(t *testing.T) {
	line := []byte(`{"jsonrpc":"2.0","id":"the id","method":"exec","params":{"cmd":"the command"}}`)
	asked, failure := decodeRequest(line)
	var command string
	if failure != nil || decodeParams(asked.params, text("cmd", &command)) != nil {
		t.Fatal(failure)
	}
	for i := range line {
		line[i] = 'x'
	}
	if string(asked.id) != `"the id"` || asked.method != "exec" || command != "the command" {
		t.Errorf("%s %s %s", asked.id, asked.method, command)
	}
}

func TestTextList(t *testing.T) {
	for params, want := range map[string]string{
		`{"l":[]}`:          "",
		`{"l":["a","b c"]}`: "a|b c",
		`{"l":["a",1]}`:     "error",
		`{"l":"a"}`:         "error",
		`{"l":{"a":"b"}}`:   "error",
		`{"l":null}`:        "error",
	} {
		var list []string
		got := "error"
		if decodeParams([]byte(params), textList("l", &list)) == nil {
			got = strings.Join(list, "|")
		}
		if got != want {
			t.Errorf("%s: %q, not %q", params, got, want)
		}
	}
}

// FuzzDecodeRequest: whatever comes, there is an answer, on one line, that is JSON and has the id.
func FuzzDecodeRequest(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}`,
		`{"jsonrpc":"2.0","id":"\u00e9\ud83d\ude00","method":"exec","params":{"cmd":"echo \"x\"\n"}}`,
		`{"jsonrpc":"2.0","id":-0.5e-3,"method":"write_file","params":{"path":"/a","content":"\u0000"}}`,
		`{"jsonrpc":"2.0","id":null,"method":"list_dir","params":null}`,
		`{"jsonrpc":"1.0","id":[1],"method":7,"params":[]}`,
		`[{"jsonrpc":"2.0","id":1,"method":"ping"}]`,
		"{\"id\":\"\xff\"}", `{"a":1,"a":2}`, `"\ud800"`, `{"id":1}}`, ``, ` `, `nul`, `[[[[`, `{"":{"":{"":`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.IndexByte(line, '\n') >= 0 {
			return
		}
		before := bytes.Clone(line)
		asked, failure := decodeRequest(line)
		if failure == nil {
			var path, content, command string
			failure = decodeParams(asked.params, text("path", &path), text("content", &content), text("cmd", &command))
		}
		if !bytes.Equal(line, before) {
			t.Fatal("the line was changed")
		}
		answer := response(asked.id, []byte(`{}`), failure)
		if end := bytes.IndexByte(answer, '\n'); end != len(answer)-1 {
			t.Fatalf("a newline within %q", answer)
		}
		members := map[string]string{}
		err := eachMember(answer, func(name string, value jsontext.Value) { members[name] = string(value) })
		if err != nil {
			t.Fatalf("%v: %q", err, answer)
		}
		if want := string(asked.id); want != "" && members["id"] != want {
			t.Errorf("id %s, not %s", members["id"], want)
		}
	})
}
