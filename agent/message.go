package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json/jsontext"
	"errors"
	"io"
	"slices"
	"strconv"
	"unsafe"
)

// The error codes of JSON-RPC 2.0, section 5.1.
const (
	codeParse          = -32700
	codeInvalidRequest = -32600
	codeMethodNotFound = -32601
	codeInvalidParams  = -32602
	codeInternal       = -32603
)

// codeCancelled is the error of a request that its sender has cancelled.
const codeCancelled = -32800

const (
	// idLimit is the most bytes an id may have as JSON.
	idLimit = 1024
	// messageLimit is the most bytes of an error's message.
	messageLimit = 1024
	// responseRoom is more than a response needs beside its result.
	responseRoom = 4096
)

// rpcError is an error response's content. A failed system call's name (ENOENT) goes out as data.errno.
type rpcError struct {
	code    int
	message string
	errno   string
}

// request is one decoded request line. Its params are a part of that line.
type request struct {
	id           jsontext.Value // as it was sent; nil when there was none, or none that may be used
	method       string
	params       jsontext.Value
	notification bool
}

// decodeRequest reads one line. On an error, the request still has the id if it could be read.
//
// JSON is read strictly (RFC 8259 with unique names and valid UTF-8). Members that JSON-RPC does not
// know are ignored.
func decodeRequest(line []byte) (request, *rpcError) {
	members := map[string]jsontext.Value{}
	err := eachMember(line, func(name string, value jsontext.Value) {
		switch name {
		case "jsonrpc", "id", "method", "params":
			members[name] = value
		}
	})
	if errors.Is(err, errNotAnObject) {
		// A batch is an array, and not supported; the other values are no requests either.
		return request{}, invalidRequest("not a JSON object")
	}
	if err != nil {
		return request{}, &rpcError{code: codeParse, message: "parse error: " + err.Error()}
	}
	return requestOf(members)
}

func requestOf(members map[string]jsontext.Value) (request, *rpcError) {
	var r request
	id, hasID := members["id"]
	r.notification = !hasID
	switch id.Kind() {
	case '"', '0':
		if len(id) > idLimit {
			return r, invalidRequest("id is longer than " + strconv.Itoa(idLimit) + " bytes")
		}
		r.id = id.Clone()
	case 'n', jsontext.KindInvalid:
	default:
		return r, invalidRequest("id must be a number or a string")
	}
	var protocol string
	if !asText(members["jsonrpc"], &protocol) || protocol != "2.0" {
		return r, invalidRequest(`jsonrpc must be "2.0"`)
	}
	if !asText(members["method"], &r.method) || r.method == "" {
		return r, invalidRequest("method must be a string")
	}
	r.params = members["params"]
	return r, nil
}

func invalidRequest(why string) *rpcError {
	return &rpcError{code: codeInvalidRequest, message: "invalid request: " + why}
}

func invalidParams(why string) *rpcError {
	return &rpcError{code: codeInvalidParams, message: "invalid params: " + why}
}

var errNotAnObject = errors.New("not an object")

// eachMember reads a text that must be one JSON object, and calls visit with each of its members. The
// values are parts of the text.
func eachMember(text []byte, visit func(name string, value jsontext.Value)) error {
	decoder := jsontext.NewDecoder(bytes.NewBuffer(text))
	if kind := decoder.PeekKind(); kind != '{' && kind != jsontext.KindInvalid {
		if _, err := decoder.ReadValue(); err != nil {
			return err
		}
		if err := atEnd(decoder); err != nil {
			return err
		}
		return errNotAnObject
	}
	if _, err := decoder.ReadToken(); err != nil {
		return err
	}
	for decoder.PeekKind() != '}' {
		token, err := decoder.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		value, err := decoder.ReadValue()
		if err != nil {
			return err
		}
		// The decoder's own slice is good only until its next call.
		end := int(decoder.InputOffset())
		visit(name, jsontext.Value(text[end-len(value):end]))
	}
	if _, err := decoder.ReadToken(); err != nil {
		return err
	}
	return atEnd(decoder)
}

func atEnd(decoder *jsontext.Decoder) error {
	switch _, err := decoder.ReadToken(); err {
	case io.EOF:
		return nil
	case nil:
		return errors.New("more than one JSON value in a line")
	default:
		return err
	}
}

func asText(value jsontext.Value, into *string) bool {
	if value.Kind() != '"' {
		return false
	}
	text, err := jsontext.AppendUnquote(make([]byte, 0, len(value)), value)
	// Nothing else has these bytes: a copy of a large content would double its memory.
	*into = unsafe.String(unsafe.SliceData(text), len(text))
	return err == nil
}

// object is a JSON object under construction: its bytes without the closing brace.
type object []byte

func (o object) name(name string) object {
	separator := byte(',')
	if len(o) == 0 {
		separator = '{'
	}
	// A name of ours is valid UTF-8.
	quoted, _ := jsontext.AppendQuote(append(o, separator), name)
	return append(quoted, ':')
}

// text adds a string. Invalid UTF-8 is replaced by U+FFFD.
func (o object) text(name string, value []byte) object {
	quoted, _ := jsontext.AppendQuote(slices.Grow(o.name(name), len(value)+len(`"",`)), value)
	return quoted
}

// texts adds a list of strings.
func (o object) texts(name string, values []string) object {
	list := append(o.name(name), '[')
	for i, value := range values {
		if i > 0 {
			list = append(list, ',')
		}
		list, _ = jsontext.AppendQuote(list, value)
	}
	return append(list, ']')
}

func (o object) integer(name string, value int64) object {
	return strconv.AppendInt(o.name(name), value, 10)
}

func (o object) boolean(name string, value bool) object {
	return strconv.AppendBool(o.name(name), value)
}

// bytes adds a content in an encoding: encodingText, where what is not UTF-8 is replaced, or base64.
func (o object) bytes(name string, value []byte, encoding string) object {
	if encoding != encodingBase64 {
		return o.text(name, value)
	}
	quoted := slices.Grow(o.name(name), base64.StdEncoding.EncodedLen(len(value))+len(`"",`))
	return append(base64.StdEncoding.AppendEncode(append(quoted, '"'), value), '"')
}

func (o object) value(name string, value []byte) object {
	return append(o.name(name), value...)
}

func (o object) end() []byte {
	return append(o, '}')
}

// notification returns a line that no request has asked for, with its newline. params is an object.
func notification(method string, params []byte) []byte {
	line := make(object, 0, len(params)+len(method)+64)
	return append(line.text("jsonrpc", []byte("2.0")).text("method", []byte(method)).value("params", params).end(), '\n')
}

// response returns the line that answers a request, with its newline. The result is a JSON value; it
// is not looked at where there is an error.
func response(id jsontext.Value, result []byte, failure *rpcError) []byte {
	if failure == nil && len(result)+responseRoom > lineLimit {
		failure = &rpcError{code: codeInternal, message: "the result is too large for a response"}
	}
	if id == nil {
		id = jsontext.Value("null")
	}
	line := make(object, 0, len(result)+len(id)+64)
	line = line.text("jsonrpc", []byte("2.0")).value("id", id)
	if failure == nil {
		return append(line.value("result", result).end(), '\n')
	}
	return append(line.value("error", failure.object()).end(), '\n')
}

// object returns the error as a response has it.
func (e *rpcError) object() []byte {
	message := cutText([]byte(e.message), messageLimit)
	problem := object(nil).integer("code", int64(e.code)).text("message", message)
	if e.errno != "" {
		problem = problem.value("data", object(nil).text("errno", []byte(e.errno)).end())
	}
	return problem.end()
}
