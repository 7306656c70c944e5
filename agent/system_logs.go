package main

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// logLinesLimit is the most lines of one answer, logLinesDefault how many there are unless asked.
	logLinesLimit   = 10000
	logLinesDefault = 100
	// logBytes is the most bytes of one answer's lines.
	logBytes = 1 << 20
	// logPatience is how long the journal may take.
	logPatience = 30 * time.Second
	cursorLimit = 512
	// kernelRecord is more than a record of the kernel's log has: CONSOLE_EXT_LOG_MAX.
	kernelRecord = 8192
)

var (
	errNoJournal = errors.New("there is no journal, and the kernel's log knows no units")
	errCursor    = errors.New("the cursor is not of this log")
)

// logRequest is what of the log is wanted.
type logRequest struct {
	unit   string
	lines  int
	cursor string
	since  int64 // nanoseconds since 1970; 0 for the log's beginning
}

// logLines are lines of the log.
type logLines struct {
	lines  []string
	cursor string // where the next begin; "" if it is not known
	more   bool   // there were older ones that fit the request
}

// readLogs reads the journal, or the kernel's log where there is none.
func (a *agent) readLogs(wanted logRequest) (logLines, error) {
	directory, environment := surroundings(currentAccount())
	program, err := findProgram("journalctl", environment)
	if err != nil || !hasJournal() {
		if wanted.unit != "" {
			return logLines{}, errNoJournal
		}
		return readKernelLog(wanted)
	}
	// One line more than is wanted tells whether there are more; half of them, if they have too many bytes.
	for lines := wanted.lines; ; lines /= 2 {
		argv := append([]string{program}, wanted.journalOptions(lines+1)...)
		o := a.execute(prepared{
			settings: settings{given: true}, argv: argv, directory: directory, environment: environment,
			maxOutput: logBytes, deadline: time.Now().Add(logPatience),
		}, nil)
		if o.truncated && lines > 1 {
			continue
		}
		if o.exitCode != 0 {
			return logLines{}, errors.New("journalctl failed with status " + strconv.Itoa(o.exitCode) + ": " + string(o.stderr))
		}
		found := splitJournal(string(o.stdout), lines)
		found.more = found.more || lines < wanted.lines
		if found.cursor == "" {
			found.cursor = wanted.cursor
		}
		return found, nil
	}
}

// journalOptions are those of journalctl(1) for the last so many lines.
func (r logRequest) journalOptions(lines int) []string {
	// Merged: what was written before a resume is under another machine id.
	options := []string{"--merge", "--quiet", "--no-pager", "--output=short-iso-precise", "--show-cursor",
		"--lines=" + strconv.Itoa(lines)}
	if r.unit != "" {
		options = append(options, "--unit="+r.unit)
	}
	if r.cursor != "" {
		options = append(options, "--after-cursor="+r.cursor)
	}
	if r.since != 0 {
		// The journal counts microseconds; systemd.time(7) says how they are written.
		microseconds := (r.since + 999) / 1000
		fraction := strconv.FormatInt(microseconds%1e6+1e6, 10)[1:]
		options = append(options, "--since=@"+strconv.FormatInt(microseconds/1e6, 10)+"."+fraction)
	}
	return options
}

// hasJournal says whether systemd keeps a journal here: systemd-journald.service(8).
func hasJournal() bool {
	for _, directory := range []string{"/run/log/journal", "/var/log/journal"} {
		if countEntries(directory, func(string) bool { return true }) > 0 {
			return true
		}
	}
	return false
}

// splitJournal reads what journalctl prints. An entry of several lines has them all.
func splitJournal(text string, limit int) logLines {
	const mark = "-- cursor: "
	var found logLines
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if cursor, is := strings.CutPrefix(line, mark); is {
			found.cursor = cursor
			continue
		}
		found.lines = append(found.lines, line)
	}
	if len(found.lines) > limit {
		found.lines, found.more = found.lines[len(found.lines)-limit:], true
	}
	return found
}

// readKernelLog reads /dev/kmsg: the kernel's documentation, "ABI/testing/dev-kmsg". The cursor is the
// number of the next record.
func readKernelLog(wanted logRequest) (logLines, error) {
	first := uint64(0)
	if wanted.cursor != "" {
		var err error
		if first, err = strconv.ParseUint(wanted.cursor, 10, 64); err != nil {
			return logLines{}, errCursor
		}
	}
	fd, err := openAgain("/dev/kmsg", syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return logLines{}, &os.PathError{Op: "open", Path: "/dev/kmsg", Err: err}
	}
	defer syscall.Close(fd)
	found := logLines{cursor: strconv.FormatUint(first, 10)}
	// The kernel's log has the time since the kernel's start.
	begin := time.Duration(wanted.since) - time.Duration(time.Now().UnixNano()) + monotonic()
	record := make([]byte, kernelRecord)
	for held := 0; ; {
		n, err := readAgain(fd, record)
		if err == syscall.EPIPE {
			continue // records were overwritten since the last one
		}
		if err == syscall.EAGAIN || err == nil && n == 0 {
			return found, nil
		}
		if err != nil {
			return logLines{}, &os.PathError{Op: "read", Path: "/dev/kmsg", Err: err}
		}
		number, at, line, valid := kernelLine(record[:n])
		if !valid || number < first || wanted.since != 0 && at < begin {
			continue
		}
		found.cursor = strconv.FormatUint(number+1, 10)
		found.lines = append(found.lines, line)
		held += len(line)
		for len(found.lines) > wanted.lines || held > logBytes {
			held -= len(found.lines[0])
			found.lines, found.more = found.lines[1:], true
		}
	}
}

// kernelLine turns a record into its number, its time, and a line as dmesg(1) prints it.
func kernelLine(record []byte) (number uint64, at time.Duration, line string, valid bool) {
	prefix, message, found := bytes.Cut(record, []byte{';'})
	columns := strings.Split(string(prefix), ",")
	if !found || len(columns) < 3 {
		return 0, 0, "", false
	}
	number, err := strconv.ParseUint(columns[1], 10, 64)
	microseconds, timeErr := strconv.ParseUint(columns[2], 10, 64)
	if err != nil || timeErr != nil {
		return 0, 0, "", false
	}
	text, _, _ := bytes.Cut(message, []byte{'\n'})
	seconds := strconv.FormatUint(microseconds/1e6, 10)
	fraction := strconv.FormatUint(microseconds%1e6+1e6, 10)[1:]
	return number, time.Duration(microseconds) * time.Microsecond, "[" + seconds + "." + fraction + "] " + string(text), true
}
