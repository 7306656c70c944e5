package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// serviceConfig says what a container of the image would run; the build wrote it.
const serviceConfig = "/etc/bouvet/service.json"

// defaultPath is for a service whose image sets none, as container engines have it.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// service is the content of serviceConfig.
type service struct {
	arguments   []string // the program and its arguments; none for nothing to run
	environment []string // NAME=value
	user        string   // a name or number, with or without :group; "" for root
	directory   string   // where it starts
	network     string   // "dhcp", or "" for a network that is left alone
}

func decodeService(content []byte) (service, error) {
	var s service
	failure := decodeParams(content, textList("arguments", &s.arguments), textList("environment", &s.environment),
		text("user", &s.user), text("directory", &s.directory), text("network", &s.network))
	if failure != nil {
		return s, errors.New(failure.message)
	}
	return s, nil
}

// start runs the service and returns its process id. What it prints goes to the console.
func (s service) start() (int, error) {
	who, err := findIdentity(s.user)
	if err != nil {
		return 0, err
	}
	environment := s.environment
	for _, fallback := range []string{defaultPath, "HOME=" + who.home} {
		if !sets(environment, fallback) {
			environment = append(environment, fallback)
		}
	}
	program, err := findProgram(s.arguments[0], environment)
	if err != nil {
		return 0, err
	}
	null, err := openAgain("/dev/null", syscall.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(null)
	pid, err := syscall.ForkExec(program, s.arguments, &syscall.ProcAttr{
		Dir:   s.directory,
		Env:   environment,
		Files: []uintptr{uintptr(null), uintptr(syscall.Stdout), uintptr(syscall.Stderr)},
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: &who.credential},
	})
	if err != nil {
		return 0, &os.PathError{Op: "start", Path: program, Err: err}
	}
	return pid, nil
}

// sets says whether an environment has the variable of a NAME=value already.
func sets(environment []string, variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	for _, other := range environment {
		if strings.HasPrefix(other, name+"=") {
			return true
		}
	}
	return false
}

// identity is who a program runs as.
type identity struct {
	credential syscall.Credential
	home       string
}

// findIdentity resolves USER[:GROUP] by the image's /etc/passwd and /etc/group, as container engines
// do: numbers need no entry, and a user without a group named here has the groups of /etc/group.
func findIdentity(who string) (identity, error) {
	passwd, _ := readRegular("/etc/passwd", contentLimit)
	group, _ := readRegular("/etc/group", contentLimit)
	return resolveIdentity(who, string(passwd), string(group))
}

func resolveIdentity(who, passwd, group string) (identity, error) {
	user, groupName, groupGiven := strings.Cut(who, ":")
	if user == "" {
		user = "0"
	}
	found := identity{home: "/"}
	name := user
	uid, numeric := parseID(user)
	known := false
	eachEntry(passwd, 7, func(columns []string) bool {
		id, valid := parseID(columns[2])
		gid, validGroup := parseID(columns[3])
		if !valid || !validGroup || (columns[0] != user && !(numeric && id == uid)) {
			return true
		}
		known, name, uid = true, columns[0], id
		found.credential.Gid, found.home = gid, columns[5]
		return false
	})
	if !known && !numeric {
		return found, errors.New("the image has no user " + user)
	}
	found.credential.Uid = uid
	if groupGiven && groupName != "" {
		gid, err := findGroup(groupName, group)
		found.credential.Gid, found.credential.Groups = gid, []uint32{gid}
		return found, err
	}
	// The own group is listed as well: a set-group-ID program cannot drop what only it has.
	found.credential.Groups = []uint32{found.credential.Gid}
	eachEntry(group, 4, func(columns []string) bool {
		gid, valid := parseID(columns[2])
		for member := range strings.SplitSeq(columns[3], ",") {
			if valid && known && member == name && gid != found.credential.Gid {
				found.credential.Groups = append(found.credential.Groups, gid)
			}
		}
		return true
	})
	return found, nil
}

func findGroup(name, group string) (uint32, error) {
	gid, known := parseID(name)
	eachEntry(group, 4, func(columns []string) bool {
		if id, valid := parseID(columns[2]); valid && columns[0] == name {
			gid, known = id, true
			return false
		}
		return true
	})
	if !known {
		return 0, errors.New("the image has no group " + name)
	}
	return gid, nil
}

// eachEntry visits the lines of passwd(5) or group(5) that have so many columns, until visit says no.
func eachEntry(content string, columns int, visit func([]string) bool) {
	for line := range strings.Lines(content) {
		if entry := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(entry) == columns && !visit(entry) {
			return
		}
	}
}

func parseID(text string) (uint32, bool) {
	value, err := strconv.ParseUint(text, 10, 32)
	return uint32(value), err == nil
}
