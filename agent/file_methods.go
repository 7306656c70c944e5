package main

import (
	"encoding/json/jsontext"
	"math"
	"os"
)

// fileMethods are about files, beyond the base methods.
var fileMethods = map[string]method{
	"file.stat":     {file, (*caller).fileStat},
	"file.read":     {file, (*caller).fileRead},
	"file.write":    {file, (*caller).fileWrite},
	"file.download": {download, (*caller).fileDownload},
	"file.upload":   {upload, (*caller).fileUpload},
	"file.mkdir":    {file, (*caller).fileMkdir},
	"file.remove":   {file, (*caller).fileRemove},
	"file.rename":   {file, (*caller).fileRename},
	"file.chmod":    {file, (*caller).fileChmod},
	"file.chown":    {file, (*caller).fileChown},
	"file.symlink":  {file, (*caller).fileSymlink},
	"file.watch":    {file, (*caller).fileWatch},
	"file.unwatch":  {file, (*caller).fileUnwatch},
}

// The values of the parameter format of streams.
const (
	formatRaw = "raw"
	formatTar = "tar"
)

// filePath is a required parameter that is a path. A relative one starts where commands start.
func filePath(name string, into *string) field {
	return field{name, true, "a path", func(value jsontext.Value) bool {
		if !asText(value, into) || *into == "" {
			return false
		}
		*into = absolute(*into, currentAccount())
		return true
	}}
}

// absolute returns a path as it is, or, of a relative one, where it leads from the user's home.
func absolute(path string, user account) string {
	if path[0] == '/' {
		return path
	}
	directory, _ := surroundings(user)
	return directory + "/" + path
}

// permissions is an optional parameter; nil where it is missing.
func permissions(name string, into **uint32) field {
	var number int64
	f := integer(name, &number, 0, 0o7777)
	set := f.set
	f.set = func(value jsontext.Value) bool {
		valid := set(value)
		mode := uint32(number)
		*into = &mode
		return valid
	}
	return optional(f)
}

// streamFormat is the optional parameter of that name.
func streamFormat(into *string) field {
	*into = formatRaw
	return field{"format", false, "raw or tar", func(value jsontext.Value) bool {
		return asText(value, into) && (*into == formatRaw || *into == formatTar)
	}}
}

// doing returns the call of a method whose result holds nothing.
func doing(do func() error) call {
	return func() ([]byte, *rpcError) {
		if err := do(); err != nil {
			return nil, fileError(err)
		}
		return nothing, nil
	}
}

func (w *caller) fileStat(params jsontext.Value) (call, *rpcError) {
	var path string
	follow := true
	if err := decodeParams(params, filePath("path", &path), optional(boolean("follow", &follow))); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		found, err := statFile(path, follow)
		if err != nil {
			return nil, fileError(err)
		}
		return found.end(), nil
	}, nil
}

func (w *caller) fileRead(params jsontext.Value) (call, *rpcError) {
	var path, form string
	offset, length := int64(0), int64(pieceLimit)
	if err := decodeParams(params, filePath("path", &path), optional(integer("offset", &offset, 0, math.MaxInt64/2)),
		optional(integer("length", &length, 0, math.MaxInt64/2)), encoding(&form)); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		found, err := readPart(path, offset, int(min(length, pieceLimit)))
		if err != nil {
			return nil, fileError(err)
		}
		return object(nil).bytes("data", found.data, form).integer("offset", offset).boolean("eof", found.atEnd).
			integer("size", found.size).end(), nil
	}, nil
}

func (w *caller) fileWrite(params jsontext.Value) (call, *rpcError) {
	var path, data, form string
	change := change{offset: -1}
	if err := decodeParams(params, filePath("path", &path), text("data", &data), encoding(&form),
		optional(integer("offset", &change.offset, 0, math.MaxInt64/2)), optional(boolean("append", &change.appending)),
		optional(boolean("truncate", &change.truncate)), permissions("mode", &change.mode)); err != nil {
		return nil, err
	}
	if change.appending && (change.offset >= 0 || change.truncate) {
		return nil, invalidParams("append goes with neither offset nor truncate")
	}
	if change.truncate && change.offset < 0 {
		return nil, invalidParams("truncate goes with offset")
	}
	content, failure := decodeContent("data", data, form)
	if failure != nil {
		return nil, failure
	}
	if len(content) > contentLimit {
		return nil, invalidParams("data is " + errTooLarge.Error())
	}
	change.data = content
	return func() ([]byte, *rpcError) {
		if err := change.apply(path); err != nil {
			return nil, fileError(err)
		}
		return object(nil).integer("written", int64(len(content))).end(), nil
	}, nil
}

func (w *caller) fileMkdir(params jsontext.Value) (call, *rpcError) {
	var path string
	var parents bool
	var mode *uint32
	if err := decodeParams(params, filePath("path", &path), optional(boolean("parents", &parents)),
		permissions("mode", &mode)); err != nil {
		return nil, err
	}
	return doing(func() error { return makeDirectory(path, parents, mode) }), nil
}

func (w *caller) fileRemove(params jsontext.Value) (call, *rpcError) {
	var path string
	var recursive bool
	if err := decodeParams(params, filePath("path", &path), optional(boolean("recursive", &recursive))); err != nil {
		return nil, err
	}
	return doing(func() error { return removeFile(path, recursive) }), nil
}

func (w *caller) fileRename(params jsontext.Value) (call, *rpcError) {
	var from, to string
	if err := decodeParams(params, filePath("from", &from), filePath("to", &to)); err != nil {
		return nil, err
	}
	return doing(func() error { return renameFile(from, to) }), nil
}

func (w *caller) fileChmod(params jsontext.Value) (call, *rpcError) {
	var path string
	var mode int64
	if err := decodeParams(params, filePath("path", &path), integer("mode", &mode, 0, 0o7777)); err != nil {
		return nil, err
	}
	return doing(func() error { return changeMode(path, uint32(mode)) }), nil
}

func (w *caller) fileChown(params jsontext.Value) (call, *rpcError) {
	var path string
	var uid, gid int64
	if err := decodeParams(params, filePath("path", &path), integer("uid", &uid, 0, math.MaxUint32-1),
		integer("gid", &gid, 0, math.MaxUint32-1)); err != nil {
		return nil, err
	}
	return doing(func() error { return changeOwner(path, int(uid), int(gid)) }), nil
}

func (w *caller) fileSymlink(params jsontext.Value) (call, *rpcError) {
	var target, path string
	if err := decodeParams(params, text("target", &target), filePath("path", &path)); err != nil {
		return nil, err
	}
	return doing(func() error { return makeSymlink(target, path) }), nil
}

// fileDownload answers by itself, unless it fails before the stream.
func (w *caller) fileDownload(params jsontext.Value) (call, *rpcError) {
	var path, format string
	offset, length := int64(0), int64(-1)
	if err := decodeParams(params, filePath("path", &path), streamFormat(&format),
		optional(integer("offset", &offset, 0, math.MaxInt64/2)),
		optional(integer("length", &length, 0, math.MaxInt64/2))); err != nil {
		return nil, err
	}
	if format == formatTar && (offset != 0 || length >= 0) {
		return nil, invalidParams("offset and length do not go with tar")
	}
	return func() ([]byte, *rpcError) {
		buffer, release, failure := acquireStream()
		if failure != nil {
			return nil, failure
		}
		defer release()
		if format == formatTar {
			tree, err := openTree(path)
			if err != nil {
				return nil, fileError(err)
			}
			w.stream(tree.properties().end(), func(out *frameWriter) error { return tree.sendTo(out, buffer) })
			return nil, nil
		}
		from, err := openSource(path, offset, length)
		if err != nil {
			return nil, fileError(err)
		}
		defer from.close()
		properties := from.properties()
		w.stream(properties.end(), func(out *frameWriter) error { return from.sendTo(out, buffer) })
		return nil, nil
	}, nil
}

func (w *caller) fileUpload(params jsontext.Value) (call, *rpcError) {
	var path, format, name string
	var mode *uint32
	if err := decodeParams(params, text("path", &path), streamFormat(&format), permissions("mode", &mode),
		optional(textOrNumber("user", &name))); err != nil {
		return nil, err
	}
	user, failure := wantedAccount(name)
	switch {
	case failure != nil:
		return nil, failure
	case path == "":
		return nil, invalidParams("path must be a path")
	case format == formatTar && mode != nil:
		return nil, invalidParams("mode does not go with tar")
	}
	path = absolute(path, user)
	return func() ([]byte, *rpcError) {
		buffer, release, failure := acquireStream()
		if failure != nil {
			return nil, failure
		}
		defer release()
		stream := &counter{from: w.upload}
		err := user.doing(func() error {
			if format == formatTar {
				return receiveTree(stream, path, name == "" && os.Geteuid() == 0, buffer)
			}
			return receiveFile(stream, path, mode, name == "", buffer)
		})
		if err != nil {
			return nil, fileError(err)
		}
		return object(nil).integer("bytes", stream.count).end(), nil
	}, nil
}

func (w *caller) fileWatch(params jsontext.Value) (call, *rpcError) {
	var path string
	var recursive bool
	if err := decodeParams(params, filePath("path", &path), optional(boolean("recursive", &recursive))); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		number, err := watches.begin(w, path, recursive)
		if err != nil {
			return nil, fileError(err)
		}
		return object(nil).integer("watch", number).end(), nil
	}, nil
}

func (w *caller) fileUnwatch(params jsontext.Value) (call, *rpcError) {
	var number int64
	if err := decodeParams(params, integer("watch", &number, 1, math.MaxInt64)); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		if !watches.end(number, w.connection) {
			return nil, invalidParams("the connection has no such watch")
		}
		return nothing, nil
	}, nil
}
