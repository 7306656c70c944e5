package main

import (
	"encoding/json/jsontext"
	"maps"
	"slices"
	"strings"
)

// protocolVersion is what hello says: it changes only if a host of an older one could misunderstand.
const protocolVersion = 1

type methodKind int

const (
	immediate methodKind = iota // done while the next request waits: never blocks
	file                        // waits for one of a few places
	command                     // refused if all places are taken; can be cancelled
	upload                      // reads the stream that follows its request; the next request waits
	download                    // answers by itself, with a stream; the next request waits
)

// method is one that a host can call.
type method struct {
	kind methodKind
	// prepare reads the params. It is called in the order of the requests.
	prepare func(*caller, jsontext.Value) (call, *rpcError)
}

// call does what a request asks for, after its params were read.
type call func() (result []byte, failure *rpcError)

// methods are all that can be asked for.
var methods = map[string]method{}

func init() {
	// Not where the map is declared: hello tells of all methods, itself among them.
	base := map[string]method{
		"ping":       {immediate, (*caller).ping},
		"hello":      {immediate, (*caller).hello},
		"cancel":     {immediate, (*caller).cancel},
		"exec":       {command, (*caller).exec},
		"exec_code":  {command, (*caller).execCode},
		"read_file":  {file, (*caller).readFile},
		"write_file": {file, (*caller).writeFile},
		"list_dir":   {file, (*caller).listDir},
	}
	for _, group := range []map[string]method{base, processMethods, fileMethods, systemMethods} {
		maps.Copy(methods, group)
	}
}

// ping is the method of that name: a sign of life.
func (w *caller) ping(params jsontext.Value) (call, *rpcError) {
	if err := decodeParams(params); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) { return object(nil).boolean("pong", true).end(), nil }, nil
}

// hello is the method that tells what a host can ask for.
func (w *caller) hello(params jsontext.Value) (call, *rpcError) {
	if err := decodeParams(params); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		limits := object(nil).integer("line", lineLimit).integer("content", contentLimit).
			integer("connections", connectionLimit).integer("commands", commandLimit).
			integer("output", maxOutputLimit).integer("processes", processLimit).
			integer("frame", frameLimit).end()
		result := object(nil).integer("protocol", protocolVersion).text("agent", []byte(version))
		return result.texts("capabilities", capabilities()).value("limits", limits).end(), nil
	}, nil
}

// capabilities returns the groups of methods: what comes before the dot of their names, and "exec".
func capabilities() []string {
	groups := map[string]struct{}{"exec": {}}
	for name := range methods {
		if group, _, dotted := strings.Cut(name, "."); dotted {
			groups[group] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(groups))
}
