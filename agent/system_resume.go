package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// resumeState remembers which parts of the last resume are done. It is gone with the boot.
	resumeState = "/run/bouvet/resume"
	// tokenLimit is the most bytes of a token.
	tokenLimit = 256
	// busMachineID is the same id for D-Bus, where it is no link to the other.
	busMachineID = "/var/lib/dbus/machine-id"
	machineMode  = 0o444
	hostsFile    = "/etc/hosts"
	hostnameFile = "/etc/hostname"
	// hostnameLimit is Linux's: HOST_NAME_MAX.
	hostnameLimit = 64
	// networkPatience is how long a DHCP client may take.
	networkPatience = 30 * time.Second
)

// part is something that makes a restored or cloned machine one of its own.
type part struct {
	name string
	// do says whether it has changed anything.
	do func() (bool, error)
}

// partFailure is a part that could not be done.
type partFailure struct {
	name string
	err  error
}

// resumed is what a resume has done.
type resumed struct {
	changed  []string
	failed   []partFailure
	repeated bool // the token is the last one's: only what had failed was tried again
}

// resume does the parts in order, each at most once for a token. The state is kept in a file, since
// another agent may be asked again; its lock keeps two of them from doing a part at once.
func resume(state, token string, parts []part) (resumed, error) {
	if err := os.MkdirAll(filepath.Dir(state), 0o700); err != nil {
		return resumed{}, err
	}
	file, err := os.OpenFile(state, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return resumed{}, err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return resumed{}, os.NewSyscallError("flock", err)
	}
	content := make([]byte, smallFile)
	n, _ := file.ReadAt(content, 0)
	lines := strings.Split(strings.TrimSuffix(string(content[:n]), "\n"), "\n")
	result := resumed{repeated: lines[0] == token}
	done := lines[1:]
	if !result.repeated {
		done = nil
		if err := file.Truncate(0); err != nil {
			return resumed{}, err
		}
		if _, err := file.WriteAt([]byte(token+"\n"), 0); err != nil {
			return resumed{}, err
		}
	}
	for _, p := range parts {
		if slices.Contains(done, p.name) {
			continue
		}
		changed, err := p.do()
		if err != nil {
			result.failed = append(result.failed, partFailure{p.name, err})
			continue
		}
		if changed {
			result.changed = append(result.changed, p.name)
		}
		done = append(done, p.name)
		text := token + "\n" + strings.Join(done, "\n") + "\n"
		if _, err := file.WriteAt([]byte(text), 0); err != nil {
			return result, err
		}
	}
	return result, nil
}

func (r resumed) object() object {
	failed := []byte{'['}
	for i, failure := range r.failed {
		if i > 0 {
			failed = append(failed, ',')
		}
		reason := fileError(failure.err)
		item := object(nil).text("part", []byte(failure.name)).text("message", cutText([]byte(reason.message), messageLimit))
		if reason.errno != "" {
			item = item.text("errno", []byte(reason.errno))
		}
		failed = append(failed, item.end()...)
	}
	return object(nil).texts("changed", r.changed).value("failed", append(failed, ']')).boolean("repeated", r.repeated)
}

// newMachineID gives the machine another id, after the kernel's random numbers are its own. A machine
// without one gets none.
//
//	place: machineIDFile; copy: busMachineID.
func newMachineID(place, copy string) (bool, error) {
	if _, err := os.Lstat(place); os.IsNotExist(err) {
		return false, nil
	}
	// The kernel makes a random UUID each time: RFC 9562, version 4, as machine-id(5) wants it.
	id := strings.ReplaceAll(string(firstLine("/proc/sys/kernel/random/uuid")), "-", "")
	if len(id) != 32 {
		return false, &os.PathError{Op: "read", Path: "/proc/sys/kernel/random/uuid", Err: syscall.EIO}
	}
	mode := uint32(machineMode)
	if err := replaceContent(place, []byte(id+"\n"), &mode); err != nil {
		return false, err
	}
	if status, err := os.Lstat(copy); err == nil && status.Mode().IsRegular() {
		return true, replaceContent(copy, []byte(id+"\n"), &mode)
	}
	return true, nil
}

// validHostname says whether a name is one of RFC 1123, section 2.1, so that it may stand in files.
func validHostname(name string) bool {
	if name == "" || len(name) > hostnameLimit {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, character := range []byte(label) {
			letter := character|0x20 >= 'a' && character|0x20 <= 'z'
			if !letter && character != '-' && (character < '0' || character > '9') {
				return false
			}
		}
	}
	return true
}

// setHostname gives the machine another name, which resolves as the old one did.
func setHostname(name string) (bool, error) {
	old, err := os.Hostname()
	if err != nil {
		return false, err
	}
	if old == name {
		return false, nil
	}
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return false, os.NewSyscallError("sethostname", err)
	}
	if err := replaceContent(hostnameFile, []byte(name+"\n"), nil); err != nil {
		return true, err
	}
	hosts, err := readRegular(hostsFile, contentLimit)
	if os.IsNotExist(err) {
		return true, nil
	}
	if err != nil {
		return true, err
	}
	return true, replaceContent(hostsFile, []byte(renameHost(string(hosts), old, name)), nil)
}

// renameHost replaces a name in hosts(5)' text.
func renameHost(hosts, old, name string) string {
	var renamed strings.Builder
	for line := range strings.Lines(hosts) {
		names, comment, commented := strings.Cut(strings.TrimSuffix(line, "\n"), "#")
		fields := strings.Fields(names)
		if len(fields) > 1 && slices.Contains(fields[1:], old) {
			for i := range fields[1:] {
				if fields[i+1] == old {
					fields[i+1] = name
				}
			}
			line = strings.Join(fields, "\t")
			if commented {
				line += " #" + comment
			}
			line += "\n"
		}
		renamed.WriteString(line)
	}
	return renamed.String()
}
