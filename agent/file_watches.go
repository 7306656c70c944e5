package main

import (
	"os"
	"sync"
)

// fileWatches are the watches of all connections, by their numbers.
type fileWatches struct {
	lock  sync.Mutex
	last  int64
	known map[int64]watchOf
}

// watchOf is a watch and the connection that it belongs to.
type watchOf struct {
	connection *connection
	watch      *watch
	forget     func()
}

var watches = fileWatches{known: map[int64]watchOf{}}

// begin watches for a connection, until it unwatches or ends. What is told begins after the answer.
func (f *fileWatches) begin(w *caller, path string, recursive bool) (int64, error) {
	f.lock.Lock()
	defer f.lock.Unlock()
	own := 0
	for _, known := range f.known {
		if known.connection == w.connection {
			own++
		}
	}
	if own >= watchLimit {
		return 0, &os.PathError{Op: "watch", Path: path, Err: errTooManyWatches}
	}
	f.last++
	number, c := f.last, w.connection
	begun, err := newWatch(path, recursive, func(change fileChange) { c.write(change.line(number)) })
	if err != nil {
		return 0, err
	}
	forget := c.onEnd(func() { f.end(number, c) })
	f.known[number] = watchOf{c, begun, forget}
	w.after = begun.run
	return number, nil
}

// end says whether there was such a watch of the connection's.
func (f *fileWatches) end(number int64, c *connection) bool {
	f.lock.Lock()
	known, found := f.known[number]
	found = found && known.connection == c
	if found {
		delete(f.known, number)
	}
	f.lock.Unlock()
	if found {
		known.watch.close()
		known.forget()
	}
	return found
}

// line is the notification of a change.
func (change fileChange) line(number int64) []byte {
	params := object(nil).integer("watch", number)
	if change.event == changesLost {
		return notification("file.changes_lost", params.end())
	}
	params = params.text("path", []byte(change.path)).text("event", []byte(change.event))
	if change.from != "" {
		params = params.text("from", []byte(change.from))
	}
	return notification("file.changed", params.end())
}
