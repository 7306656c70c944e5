package main

import (
	"errors"
	"os"
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
	name, groupName, groupGiven := strings.Cut(who, ":")
	if name == "" {
		name = "0"
	}
	user, known := accountIn(passwd, name)
	if !known {
		uid, numeric := parseID(name)
		if !numeric {
			return identity{}, errors.New("the image has no user " + name)
		}
		user = account{uid: uid, home: "/"}
	}
	found := identity{syscall.Credential{Uid: user.uid, Gid: user.gid}, user.home}
	if groupGiven && groupName != "" {
		gid, err := findGroup(groupName, group)
		found.credential.Gid, found.credential.Groups = gid, []uint32{gid}
		return found, err
	}
	found.credential.Groups = user.groupsIn(group)
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
