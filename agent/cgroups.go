package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// cgroupMagic is what statfs(2) says of a cgroup2 file system: CGROUP2_SUPER_MAGIC.
	cgroupMagic = 0x63677270
	// ownGroup is where the agent itself is: a control group with others below it holds no process.
	ownGroup = "agent"
	// earlyGroup is for an agent that was there before the machine's init, and is no part of a service.
	earlyGroup = "bouvet"
	// commonGroup is for all commands that nothing is asked of which takes a group of their own.
	commonGroup = "common"
	// idleGroups is how many empty groups are kept for the next commands.
	idleGroups = 8
	// taskShare of the machine's processes and threads is the most that a group may have: the others,
	// and who ends it, still have room then.
	taskShare = 2
)

// cgroups are control groups for commands: all that a command has started can be ended at once, and it
// is known whether the kernel has killed any of it. Where there are none, or the agent may not use them,
// commands have none; cgroups(7).
type cgroups struct {
	lock      sync.Mutex
	off       bool   // for good
	directory string // where they are made; "" if that is not known yet
	common    *cgroup
	made      int
	idle      []*cgroup
	lingering []*cgroup // of commands that have ended, with processes that they have left behind
}

// cgroup is the control group of one command at a time.
type cgroup struct {
	path       string
	descriptor int
	killed     int64 // by the kernel for want of memory, when the command began
}

// take returns a group without processes, or nil.
func (g *cgroups) take() *cgroup {
	g.lock.Lock()
	defer g.lock.Unlock()
	if !g.known() {
		return nil
	}
	g.sweep()
	var group *cgroup
	if last := len(g.idle) - 1; last >= 0 {
		group, g.idle = g.idle[last], g.idle[:last]
	} else if group = g.make(); group == nil {
		return nil
	}
	group.killed = group.oomKills()
	return group
}

// shared returns the group that commands without one of their own have, or nil. It is never ended.
func (g *cgroups) shared() *cgroup {
	g.lock.Lock()
	defer g.lock.Unlock()
	if g.known() && g.common == nil {
		g.common = openGroup(filepath.Join(g.directory, commonGroup))
	}
	return g.common
}

// known says whether groups can be made.
func (g *cgroups) known() bool {
	return !g.off && (g.directory != "" || g.find())
}

// give takes a group back. Its command has ended.
func (g *cgroups) give(group *cgroup) {
	if group == nil {
		return
	}
	g.lock.Lock()
	defer g.lock.Unlock()
	g.lingering = append(g.lingering, group)
	g.sweep()
}

// sweep takes groups that have become empty for the next commands, or removes them.
func (g *cgroups) sweep() {
	left := g.lingering[:0]
	for _, group := range g.lingering {
		switch {
		case group.populated():
			left = append(left, group)
		case len(g.idle) < idleGroups:
			g.idle = append(g.idle, group)
		default:
			syscall.Close(group.descriptor)
			_ = syscall.Rmdir(group.path)
		}
	}
	g.lingering = left
}

func (g *cgroups) make() *cgroup {
	g.made++
	return openGroup(filepath.Join(g.directory, "command-"+strconv.Itoa(os.Getpid())+"-"+strconv.Itoa(g.made)))
}

// openGroup makes a group, or opens one that an earlier agent has left; it returns nil if that fails.
func openGroup(path string) *cgroup {
	if err := syscall.Mkdir(path, newDirectoryMode); err != nil && err != syscall.EEXIST {
		return nil
	}
	descriptor, err := openAgain(path, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		_ = syscall.Rmdir(path)
		return nil
	}
	limitTasks(descriptor)
	return &cgroup{path: path, descriptor: descriptor}
}

// limitTasks gives a group its share of what processes and threads the machine can have.
func limitTasks(group int) {
	most, err := strconv.Atoi(string(firstLine("/proc/sys/kernel/threads-max")))
	if err != nil {
		return
	}
	// There is no such file where the controller is not enabled.
	fd, err := syscall.Openat(group, "pids.max", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer syscall.Close(fd)
	_ = writeAll(fd, []byte(strconv.Itoa(most/taskShare)))
}

// find settles where groups are made, and says whether that is known. Before the machine's init there
// are none yet.
func (g *cgroups) find() bool {
	var status syscall.Statfs_t
	if syscall.Statfs(cgroupRoot, &status) != nil || status.Type != cgroupMagic {
		return false
	}
	content, err := os.ReadFile("/proc/self/cgroup")
	own, unified := strings.CutPrefix(strings.TrimSpace(string(content)), "0::")
	if err != nil || !unified {
		g.off = true
		return false
	}
	if own == "/" || own == "/init.scope" {
		g.directory = filepath.Join(cgroupRoot, earlyGroup)
		_ = syscall.Mkdir(g.directory, newDirectoryMode)
		enableControllers(cgroupRoot)
	} else {
		g.directory = filepath.Join(cgroupRoot, strings.TrimSuffix(own, "/"+ownGroup))
		if !delegated(g.directory) || !moveTo(filepath.Join(g.directory, ownGroup)) {
			g.directory, g.off = "", true
			return false
		}
	}
	enableControllers(g.directory)
	return true
}

// delegated says whether a group is the agent's to divide: systemd marks it so, in systemd.exec(5)'s
// sense of Delegate=.
func delegated(directory string) bool {
	value := make([]byte, 1)
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		if n, err := syscall.Getxattr(directory, name, value); err == nil && n == 1 && value[0] == '1' {
			return true
		}
	}
	return false
}

func moveTo(directory string) bool {
	if err := syscall.Mkdir(directory, newDirectoryMode); err != nil && err != syscall.EEXIST {
		return false
	}
	return os.WriteFile(filepath.Join(directory, "cgroup.procs"), []byte("0"), 0) == nil
}

// enableControllers lets the groups below account for memory (without it, nobody tells of what the kernel
// has killed), be limited in their processes, and share the processors by group: of a thousand processes
// in one, and the agent in another, the agent gets its half. Each is enabled as far as there is one.
func enableControllers(directory string) {
	for _, controller := range []string{"+memory", "+pids", "+cpu"} {
		_ = os.WriteFile(filepath.Join(directory, "cgroup.subtree_control"), []byte(controller), 0)
	}
}

// kill ends every process of the group; those that they start meanwhile as well.
func (c *cgroup) kill() {
	if os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	// Before Linux 5.14. A process that forks faster than this is stopped by the group's freezer.
	_ = os.WriteFile(filepath.Join(c.path, "cgroup.freeze"), []byte("1"), 0)
	c.signal(syscall.SIGKILL)
	_ = os.WriteFile(filepath.Join(c.path, "cgroup.freeze"), []byte("0"), 0)
}

// signal sends a signal to every process of the group.
func (c *cgroup) signal(number syscall.Signal) {
	content, err := os.ReadFile(filepath.Join(c.path, "cgroup.procs"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(content)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 {
			_ = syscall.Kill(pid, number)
		}
	}
}

func (c *cgroup) populated() bool {
	return c.event("cgroup.events", "populated") != 0
}

// oomKills returns how many of its processes the kernel has killed for want of memory, ever.
func (c *cgroup) oomKills() int64 {
	return c.event("memory.events", "oom_kill")
}

// oomKilled says whether that happened to the group's command.
func (c *cgroup) oomKilled() bool {
	return c != nil && c.oomKills() > c.killed
}

// event reads a number of a file of "name number" lines; 0 if there is none.
func (c *cgroup) event(file, name string) int64 {
	var buffer [512]byte
	fd, err := syscall.Openat(c.descriptor, file, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer syscall.Close(fd)
	n, err := readAgain(fd, buffer[:])
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(buffer[:n])) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			number, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return number
		}
	}
	return 0
}

// sessionScans is how often a session that is killed is looked for at most.
const sessionScans = 100

// signalSession sends a signal to the processes of a session, for want of a control group: those that
// have left it are not reached. SIGKILL also gets those that are started meanwhile. Who has got it starts
// none, so it is sent until no other process is found, and none has ended while it was looked for: that
// one may have started another.
func signalSession(leader int, number syscall.Signal) {
	signalled := map[int]bool{}
	for range sessionScans {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			_ = syscall.Kill(-leader, number)
			return
		}
		settled := true
		for _, entry := range entries {
			pid, err := strconv.Atoi(entry.Name())
			if err != nil || pid == os.Getpid() || signalled[pid] {
				continue
			}
			session, _, failure := syscall.RawSyscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
			if failure == 0 && int(session) == leader {
				_ = syscall.Kill(pid, number)
				signalled[pid] = true
			}
			settled = settled && failure == 0 && !signalled[pid]
		}
		if settled || number != syscall.SIGKILL {
			return
		}
	}
}
