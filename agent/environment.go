package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// environmentFile is where an image sets variables for everybody: pam_env(8)'s file.
const environmentFile = "/etc/environment"

// environmentFileLimit is the most bytes of it that are read.
const environmentFileLimit = 64 << 10

// executable is X_OK of access(2).
const executable = 1

// account is who the agent runs as: commands start in its home directory.
type account struct{ name, home, shell string }

// surroundings returns what each command gets, however the agent itself was started: the working
// directory, and the environment, which is made of defaults and, above them, environmentFile's
// variables as they are now.
func surroundings() (directory string, environment []string) {
	user := currentAccount()
	variables := map[string]string{
		"PATH": "/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG": "C.UTF-8",
		// Debian's Rust lies under /usr, with links where the world expects rustup's.
		"RUSTUP_HOME": "/usr/local/rustup",
		"CARGO_HOME":  "/usr/local/cargo",
	}
	for name, value := range readEnvironment(environmentFile) {
		variables[name] = value
	}
	variables["HOME"], variables["USER"], variables["LOGNAME"] = user.home, user.name, user.name
	variables["SHELL"] = user.shell
	for name, value := range variables {
		environment = append(environment, name+"="+value)
	}
	if status, err := os.Stat(user.home); err != nil || !status.IsDir() {
		return "/", environment
	}
	return user.home, environment
}

// readEnvironment reads NAME=value lines; a value may stand in quotes, a line may be a comment or begin
// with "export".
func readEnvironment(path string) map[string]string {
	content, err := readRegular(path, environmentFileLimit)
	if err != nil {
		return nil
	}
	variables := map[string]string{}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		name, value, found := strings.Cut(line, "=")
		if !found || name == "" || strings.ContainsAny(name, " \t#\"'\x00") || strings.Contains(value, "\x00") {
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		variables[name] = value
	}
	return variables
}

// currentAccount finds the agent's own line in passwd(5).
func currentAccount() account {
	user := account{name: "root", home: "/root", shell: "/bin/sh"}
	id := strconv.Itoa(syscall.Getuid())
	content, err := readRegular("/etc/passwd", contentLimit)
	if err != nil {
		return user
	}
	for line := range strings.Lines(string(content)) {
		columns := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(columns) == 7 && columns[2] == id {
			return account{name: columns[0], home: columns[5], shell: columns[6]}
		}
	}
	return user
}

// findProgram searches PATH of an environment, as a shell does.
func findProgram(name string, environment []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, variable := range environment {
		list, found := strings.CutPrefix(variable, "PATH=")
		if !found {
			continue
		}
		for directory := range strings.SplitSeq(list, ":") {
			path := directory + "/" + name
			if status, err := os.Stat(path); err == nil && status.Mode().IsRegular() && syscall.Access(path, executable) == nil {
				return path, nil
			}
		}
	}
	return "", &os.PathError{Op: "find", Path: name, Err: syscall.ENOENT}
}
