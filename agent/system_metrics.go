package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// ticksPerSecond is USER_HZ, the unit of /proc/stat: 100 on every architecture that Go knows.
const ticksPerSecond = 100

// systemMetrics returns how the machine does: what the kernel counts, read when it is asked for.
func (a *agent) systemMetrics() object {
	return object(nil).value("cpu", cpuMetrics().end()).value("memory", memoryMetrics().end()).
		value("disk", diskMetrics().end()).value("load", loadMetrics()).
		integer("processes", countEntries("/proc", isNumber)).value("agent", a.ownMetrics().end())
}

func isNumber(name string) bool {
	_, err := strconv.ParseUint(name, 10, 32)
	return err == nil
}

// cpuMetrics returns the time that all processors together have spent since the boot: proc(5).
func cpuMetrics() object {
	line := strings.Fields(string(firstLine("/proc/stat")))
	result := object(nil).integer("count", int64(runtime.NumCPU()))
	for i, name := range []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"} {
		if i+1 >= len(line) {
			break
		}
		ticks, _ := strconv.ParseInt(line[i+1], 10, 64)
		result = result.integer(name+"_ms", ticks*1000/ticksPerSecond)
	}
	return result
}

// memoryMetrics returns bytes.
func memoryMetrics() object {
	found := valuesOf("/proc/meminfo")
	result := object(nil)
	for _, member := range [][2]string{
		{"total", "MemTotal"}, {"free", "MemFree"}, {"available", "MemAvailable"}, {"cached", "Cached"},
		{"dirty", "Dirty"}, {"swap_total", "SwapTotal"}, {"swap_free", "SwapFree"},
	} {
		result = result.integer(member[0], found[member[1]]*1024)
	}
	return result
}

// diskMetrics returns the bytes and files of the root file system.
func diskMetrics() object {
	var root syscall.Statfs_t
	if syscall.Statfs("/", &root) != nil {
		return object{'{'}
	}
	size := int64(root.Frsize)
	return object(nil).integer("total", int64(root.Blocks)*size).integer("free", int64(root.Bfree)*size).
		integer("available", int64(root.Bavail)*size).integer("files", int64(root.Files)).
		integer("files_free", int64(root.Ffree))
}

// loadMetrics returns the three averages of /proc/loadavg, which are numbers as JSON has them.
func loadMetrics() []byte {
	columns := strings.Fields(string(firstLine("/proc/loadavg")))
	if len(columns) < 3 {
		return []byte("[]")
	}
	return []byte("[" + strings.Join(columns[:3], ",") + "]")
}

func (a *agent) ownMetrics() object {
	own := valuesOf("/proc/self/status")
	a.lock.Lock()
	connections := len(a.connections)
	a.lock.Unlock()
	a.children.lock.Lock()
	commands := len(a.children.running)
	a.children.lock.Unlock()
	return object(nil).integer("pid", int64(os.Getpid())).integer("resident", own["VmRSS"]*1024).
		integer("resident_peak", own["VmHWM"]*1024).integer("threads", own["Threads"]).
		integer("descriptors", countEntries("/proc/self/fd", isNumber)).
		integer("connections", int64(connections)).integer("commands", int64(commands))
}

// valuesOf reads lines of a name, a colon and a number.
func valuesOf(path string) map[string]int64 {
	content, err := readRegular(path, smallFile)
	if err != nil {
		return nil
	}
	values := map[string]int64{}
	for line := range strings.Lines(string(content)) {
		name, rest, _ := strings.Cut(line, ":")
		if columns := strings.Fields(rest); len(columns) > 0 {
			if value, err := strconv.ParseInt(columns[0], 10, 64); err == nil {
				values[name] = value
			}
		}
	}
	return values
}
