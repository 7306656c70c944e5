package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// sortedNames is how many names of directories are held at once, to be sorted: what is beyond comes
	// in the order of the file system.
	sortedNames = 16384
	// hardLinkLimit is how many files with several names are remembered: beyond, each name becomes a
	// file of its own.
	hardLinkLimit = 4096
	// archiveBuffer is how many bytes of an archive are gathered for a frame: headers are small.
	archiveBuffer = 64 << 10
	// attributesLimit is the most bytes of one file's extended attributes; more are refused.
	attributesLimit = 64 << 10
)

var errShrunk = errors.New("it became shorter while it was read")

// fileID is what tells one file of a tree from the others. (All are on one file system.)
type fileID uint64

// treeWriter writes a directory as an archive: parents first, the names of a directory sorted by
// bytes. Nothing of another file system is in it, and no socket.
type treeWriter struct {
	archive *tar.Writer
	device  uint64
	names   int // how many may still be held
	links   map[fileID]string
	buffer  []byte
}

// openTree opens a directory to be written.
func openTree(directory string) (*tree, error) {
	fd, err := openAgain(directory, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: directory, Err: err}
	}
	t := &tree{fd: fd}
	if err := syscall.Fstat(fd, &t.status); err != nil {
		syscall.Close(fd)
		return nil, &os.PathError{Op: "stat", Path: directory, Err: err}
	}
	return t, nil
}

// tree is an open directory.
type tree struct {
	fd     int
	status syscall.Stat_t
}

// properties are what a download's response says.
func (t *tree) properties() object { return fileProperties(&t.status) }

// sendTo writes the archive, and closes the directory.
func (t *tree) sendTo(stream io.Writer, buffer []byte) error {
	gathered := bufio.NewWriterSize(stream, archiveBuffer)
	w := &treeWriter{
		archive: tar.NewWriter(gathered), device: uint64(t.status.Dev), names: sortedNames,
		links: map[fileID]string{}, buffer: buffer,
	}
	if err := w.directory(t.fd, "", &t.status, 0); err != nil {
		return err
	}
	if err := w.archive.Close(); err != nil {
		return err
	}
	return gathered.Flush()
}

// header returns what the archive says of a file. Times are whole seconds: others need a record of
// their own for each file.
func header(name string, status *syscall.Stat_t) *tar.Header {
	return &tar.Header{
		Name: name, Mode: int64(status.Mode & 0o7777), Uid: int(status.Uid), Gid: int(status.Gid),
		ModTime: time.Unix(status.Mtim.Sec, 0), Format: tar.FormatPAX,
	}
}

// directory writes a directory, which it closes, and all that is in it.
func (w *treeWriter) directory(fd int, name string, status *syscall.Stat_t, depth int) error {
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	if depth > depthLimit {
		return &os.PathError{Op: "archive", Path: name, Err: syscall.ENAMETOOLONG}
	}
	entry := header("./"+name, status)
	if name != "" {
		entry.Name += "/"
	}
	entry.Typeflag = tar.TypeDir
	if err := w.begin(entry, descriptorPath(fd)); err != nil {
		return err
	}
	if uint64(status.Dev) != w.device {
		return nil
	}
	for {
		// Each round but the last takes all the names that may still be held.
		room := max(w.names, 64)
		names, err := file.Readdirnames(room)
		if err != nil && err != io.EOF {
			return &os.PathError{Op: "list", Path: name, Err: err}
		}
		slices.Sort(names)
		w.names -= len(names)
		for _, base := range names {
			if err := w.file(fd, base, path.Join(name, base), depth); err != nil {
				return err
			}
		}
		w.names += len(names)
		if len(names) < room {
			return nil
		}
	}
}

// file writes what has a name in an open directory. What is gone by now is left out.
func (w *treeWriter) file(parent int, base, name string, depth int) error {
	err := w.fileAt(descriptorPath(parent)+"/"+base, name, depth)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

func (w *treeWriter) fileAt(place, name string, depth int) error {
	var status syscall.Stat_t
	if err := syscall.Lstat(place, &status); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	entry := header("./"+name, &status)
	switch status.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		fd, err := openAgain(place, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		return w.directory(fd, name, &status, depth+1)
	case syscall.S_IFREG:
		return w.regular(place, name, entry)
	case syscall.S_IFLNK:
		target, err := os.Readlink(place)
		if err != nil {
			return err
		}
		entry.Typeflag, entry.Linkname = tar.TypeSymlink, target
		return w.archive.WriteHeader(entry)
	case syscall.S_IFIFO:
		entry.Typeflag = tar.TypeFifo
	case syscall.S_IFCHR:
		entry.Typeflag = tar.TypeChar
	case syscall.S_IFBLK:
		entry.Typeflag = tar.TypeBlock
	default:
		return nil // a socket has no meaning without its process
	}
	entry.Devmajor, entry.Devminor = deviceParts(uint64(status.Rdev))
	return w.begin(entry, place)
}

// regular writes a file's content, or a link to the name that has it already.
func (w *treeWriter) regular(place, name string, entry *tar.Header) error {
	fd, err := openAgain(place, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	from := source{fd: fd, path: name, length: -1}
	defer from.close()
	if err := syscall.Fstat(fd, &from.status); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if from.status.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil // replaced since it was looked at
	}
	if from.status.Nlink > 1 {
		if first, known := w.links[fileID(from.status.Ino)]; known {
			entry.Typeflag, entry.Linkname = tar.TypeLink, first
			return w.archive.WriteHeader(entry)
		}
		if len(w.links) < hardLinkLimit {
			w.links[fileID(from.status.Ino)] = entry.Name
		}
	}
	entry.Typeflag, entry.Size = tar.TypeReg, from.status.Size
	if err := w.begin(entry, descriptorPath(fd)); err != nil {
		return err
	}
	from.length = from.status.Size
	if err := from.eachPiece(w.buffer, func(piece []byte) error {
		_, err := w.archive.Write(piece)
		return err
	}); err != nil {
		return err
	}
	if err := w.archive.Flush(); err != nil {
		return &os.PathError{Op: "read", Path: name, Err: errShrunk}
	}
	return nil
}

// begin writes a header with the extended attributes of what is at a place.
func (w *treeWriter) begin(entry *tar.Header, place string) error {
	records, err := attributes(place)
	if err != nil {
		return &os.PathError{Op: "read the attributes of", Path: entry.Name, Err: err}
	}
	entry.PAXRecords = records
	return w.archive.WriteHeader(entry)
}

// attributes returns a file's extended attributes as pax records; a link at the end of the path is not
// followed, except those to open files.
func attributes(place string) (map[string]string, error) {
	names, err := attributeNames(place)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	records := map[string]string{}
	left := attributesLimit
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value := make([]byte, left)
		n, err := syscall.Getxattr(place, name, value)
		if err == syscall.ENODATA {
			continue
		}
		if err != nil {
			return nil, err
		}
		// A pax record's name cannot hold what separates it from its value.
		if strings.Contains(name, "=") {
			continue
		}
		records[attributePrefix+name], left = string(value[:n]), left-n
	}
	return records, nil
}

func attributeNames(place string) ([]byte, error) {
	n, err := syscall.Listxattr(place, nil)
	if err == syscall.EOPNOTSUPP || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if n > attributesLimit {
		return nil, syscall.E2BIG
	}
	names := make([]byte, n)
	n, err = syscall.Listxattr(place, names)
	if err != nil {
		return nil, err
	}
	return names[:n], nil
}
