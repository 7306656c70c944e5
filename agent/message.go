package main

import (
	"bytes"
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

// field is one parameter of a method.
type field struct {
	name     string
	required bool
	kind     string // how an error names what it must be
	set      func(jsontext.Value) bool
}

// text is a required parameter that is a string.
func text(name string, into *string) field {
	return field{name, true, "a string", func(value jsontext.Value) bool { return asText(value, into) }}
}

// textList is a required parameter that is a list of strings.
func textList(name string, into *[]string) field {
	return field{name, true, "a list of strings", func(value jsontext.Value) bool {
		decoder := jsontext.NewDecoder(bytes.NewBuffer(value))
		if token, err := decoder.ReadToken(); err != nil || token.Kind() != '[' {
			return false
		}
		for decoder.PeekKind() != ']' {
			var item string
			if element, err := decoder.ReadValue(); err != nil || !asText(element, &item) {
				return false
			}
			*into = append(*into, item)
		}
		return true
	}}
}

// decodeParams reads a method's params. Missing params, and null, are an empty object.
func decodeParams(params jsontext.Value, fields ...field) *rpcError {
	if kind := params.Kind(); kind == 'n' || kind == jsontext.KindInvalid {
		params = jsontext.Value("{}")
	}
	seen := map[string]bool{}
	var problem *rpcError
	err := eachMember(params, func(name string, value jsontext.Value) {
		seen[name] = true
		if problem == nil {
			problem = setField(fields, name, value)
		}
	})
	if err != nil {
		return invalidParams("must be an object")
	}
	for _, f := range fields {
		if problem == nil && f.required && !seen[f.name] {
			problem = invalidParams(f.name + " is missing")
		}
	}
	return problem
}

func setField(fields []field, name string, value jsontext.Value) *rpcError {
	for _, f := range fields {
		if f.name != name {
			continue
		}
		if !f.set(value) {
			return invalidParams(name + " must be " + f.kind)
		}
		return nil
	}
	return invalidParams("unknown parameter " + name)
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

func (o object) integer(name string, value int64) object {
	return strconv.AppendInt(o.name(name), value, 10)
}

func (o object) boolean(name string, value bool) object {
	return strconv.AppendBool(o.name(name), value)
}

func (o object) value(name string, value []byte) object {
	return append(o.name(name), value...)
}

func (o object) end() []byte {
	return append(o, '}')
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
	message := cutText([]byte(failure.message), messageLimit)
	problem := object(nil).integer("code", int64(failure.code)).text("message", message)
	if failure.errno != "" {
		problem = problem.value("data", object(nil).text("errno", []byte(failure.errno)).end())
	}
	return append(line.value("error", problem.end()).end(), '\n')
}
