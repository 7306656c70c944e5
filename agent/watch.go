package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	// watchLimit is how many watches one connection may have, and watchesLimit how many all may have:
	// the kernel gives a user 128 queues by default.
	watchLimit   = 16
	watchesLimit = 64
	// watchedLimit is how many directories all watches together may watch.
	watchedLimit = 16384
	// movePatience is how long the second half of a move is waited for.
	movePatience = 10 * time.Millisecond
)

// watchedEvents are what is asked of the kernel for each directory: inotify(7).
const watchedEvents = syscall.IN_CREATE | syscall.IN_MODIFY | syscall.IN_DELETE | syscall.IN_MOVED_FROM |
	syscall.IN_MOVED_TO | syscall.IN_ATTRIB | syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF | syscall.IN_EXCL_UNLINK

// inotifyEvent is struct inotify_event of <linux/inotify.h>; a name of length bytes follows.
type inotifyEvent struct {
	watch  int32
	mask   uint32
	cookie uint32
	length uint32
}

const inotifyEventSize = 16

const _ = -(unsafe.Sizeof(inotifyEvent{}) ^ inotifyEventSize)

var (
	openWatches        atomic.Int32
	watchedDirectories atomic.Int32
	errTooManyWatched  = errors.New("too many directories are watched")
	errTooManyWatches  = errors.New("too many watches")
)

// fileChange is what a watch tells of.
type fileChange struct {
	path  string
	event string // created, modified, removed, moved, attributes; or changesLost
	from  string // where it was before it was moved
}

// changesLost stands for changes that nobody will be told of.
const changesLost = "lost"

// watch follows what happens to a file, or to what is in a directory. Its queue is the kernel's: a client
// that does not read makes it overflow, and then learns that changes were lost.
type watch struct {
	queue     *os.File
	root      string
	recursive bool
	tell      func(fileChange)
	closing   sync.Once

	// What follows belongs to the goroutine that reads the queue, once there is one.
	paths map[int32]string // what the kernel watches
	moved *halfMove
}

// halfMove is something that has left its name, and may turn up under another.
type halfMove struct {
	cookie    uint32
	path      string
	directory bool
}

// newWatch begins to watch. run has to be called, and close.
func newWatch(path string, recursive bool, tell func(fileChange)) (*watch, error) {
	if openWatches.Add(1) > watchesLimit {
		openWatches.Add(-1)
		return nil, &os.PathError{Op: "watch", Path: path, Err: errTooManyWatches}
	}
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		openWatches.Add(-1)
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watch{
		queue: os.NewFile(uintptr(fd), "inotify"), root: filepath.Clean(path), recursive: recursive, tell: tell,
		paths: map[int32]string{},
	}
	err = w.add(w.root, 0)
	if status, lookErr := os.Stat(w.root); err == nil && recursive && lookErr == nil && status.IsDir() {
		err = w.addBelow(w.root, nil)
	}
	if err != nil {
		w.close()
		w.forget("")
		return nil, &os.PathError{Op: "watch", Path: path, Err: err}
	}
	return w, nil
}

// close ends the watch, whatever run is at.
func (w *watch) close() {
	w.closing.Do(func() {
		w.queue.Close()
		openWatches.Add(-1)
	})
}

// add has the kernel watch one more file. Another watch of the same one just gets its new name.
func (w *watch) add(path string, flags uint32) error {
	raw, err := w.queue.SyscallConn()
	if err != nil {
		return err
	}
	var number int
	var failure error
	if err := raw.Control(func(fd uintptr) {
		number, failure = syscall.InotifyAddWatch(int(fd), path, watchedEvents|flags)
	}); err != nil {
		return err
	}
	if failure != nil {
		return failure
	}
	if _, known := w.paths[int32(number)]; !known {
		if watchedDirectories.Add(1) > watchedLimit {
			watchedDirectories.Add(-1)
			w.drop(int32(number))
			return errTooManyWatched
		}
	}
	w.paths[int32(number)] = path
	return nil
}

// addBelow watches all directories below one, whose own watch comes first: what is made meanwhile is
// told of by the kernel, or found here. found is told of all files.
func (w *watch) addBelow(directory string, found func(string)) error {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil // it is gone, which is told of
	}
	for _, entry := range entries {
		path := filepath.Join(directory, entry.Name())
		if found != nil {
			found(path)
		}
		if !entry.IsDir() {
			continue
		}
		err := w.add(path, syscall.IN_DONT_FOLLOW|syscall.IN_ONLYDIR)
		if err == syscall.ENOENT || err == syscall.ENOTDIR {
			continue
		}
		if err == nil {
			err = w.addBelow(path, found)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *watch) drop(number int32) {
	raw, err := w.queue.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = syscall.InotifyRmWatch(int(fd), uint32(number)) })
	}
}

// forget stops to watch what is at a path and below it; "" is everything.
func (w *watch) forget(path string) {
	for number, watched := range w.paths {
		if path == "" || watched == path || strings.HasPrefix(watched, path+"/") {
			w.drop(number)
			w.lose(number)
		}
	}
}

func (w *watch) lose(number int32) {
	if _, known := w.paths[number]; known {
		delete(w.paths, number)
		watchedDirectories.Add(-1)
	}
}

// run tells of changes until the watch is closed.
func (w *watch) run() {
	defer w.forget("")
	for {
		err := readPiece(w.queue, w.take)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			w.settle()
			err = w.queue.SetReadDeadline(time.Time{})
		} else if err == nil && w.moved != nil {
			err = w.queue.SetReadDeadline(time.Now().Add(movePatience))
		}
		if err != nil {
			return
		}
	}
}

// take reads the events of a piece of the queue: it holds whole ones only.
func (w *watch) take(piece []byte) {
	for len(piece) >= inotifyEventSize {
		event := inotifyEvent{
			watch:  int32(binary.NativeEndian.Uint32(piece)),
			mask:   binary.NativeEndian.Uint32(piece[4:]),
			cookie: binary.NativeEndian.Uint32(piece[8:]),
			length: binary.NativeEndian.Uint32(piece[12:]),
		}
		end := inotifyEventSize + int(event.length)
		if end > len(piece) {
			return
		}
		name, _, _ := bytes.Cut(piece[inotifyEventSize:end], []byte{0})
		w.event(event, string(name))
		piece = piece[end:]
	}
}

func (w *watch) event(event inotifyEvent, name string) {
	if w.moved != nil && (event.mask&syscall.IN_MOVED_TO == 0 || event.cookie != w.moved.cookie) {
		w.settle()
	}
	if event.mask&syscall.IN_Q_OVERFLOW != 0 {
		w.tell(fileChange{path: w.root, event: changesLost})
		return
	}
	directory, known := w.paths[event.watch]
	if event.mask&syscall.IN_IGNORED != 0 {
		w.lose(event.watch)
		return
	}
	if !known || name == "" && directory != w.root {
		return // the directory above tells of it too
	}
	path := directory
	if name != "" {
		path = filepath.Join(directory, name)
	}
	isDirectory := event.mask&syscall.IN_ISDIR != 0
	switch {
	case event.mask&syscall.IN_MOVED_FROM != 0:
		w.moved = &halfMove{event.cookie, path, isDirectory}
	case event.mask&syscall.IN_MOVED_TO != 0 && w.moved != nil:
		w.move(path)
	case event.mask&(syscall.IN_CREATE|syscall.IN_MOVED_TO) != 0:
		w.tell(fileChange{path: path, event: "created"})
		if isDirectory && w.recursive {
			w.addCreated(path)
		}
	case event.mask&syscall.IN_MODIFY != 0:
		w.tell(fileChange{path: path, event: "modified"})
	case event.mask&syscall.IN_ATTRIB != 0:
		w.tell(fileChange{path: path, event: "attributes"})
	case event.mask&(syscall.IN_DELETE|syscall.IN_DELETE_SELF|syscall.IN_MOVE_SELF) != 0:
		w.tell(fileChange{path: path, event: "removed"})
	}
}

// addCreated watches a new directory, and tells of what is in it already.
func (w *watch) addCreated(path string) {
	err := w.add(path, syscall.IN_DONT_FOLLOW|syscall.IN_ONLYDIR)
	if err == nil {
		err = w.addBelow(path, func(found string) { w.tell(fileChange{path: found, event: "created"}) })
	}
	if err != nil && err != syscall.ENOENT && err != syscall.ENOTDIR {
		w.tell(fileChange{path: path, event: changesLost})
	}
}

// move tells of something that has another name now; what is watched below it has other names too.
func (w *watch) move(to string) {
	from, directory := w.moved.path, w.moved.directory
	w.moved = nil
	known := false
	for number, watched := range w.paths {
		if watched == from || strings.HasPrefix(watched, from+"/") {
			w.paths[number] = to + watched[len(from):]
			known = true
		}
	}
	w.tell(fileChange{path: to, event: "moved", from: from})
	if directory && w.recursive && !known {
		w.addCreated(to) // it had its first name too briefly
	}
}

// settle decides that something has left for a place that is not watched.
func (w *watch) settle() {
	if w.moved == nil {
		return
	}
	gone := w.moved
	w.moved = nil
	if gone.directory {
		w.forget(gone.path)
	}
	w.tell(fileChange{path: gone.path, event: "removed"})
}
