package main

import (
	"os"
	"slices"
	"strings"
	"syscall"
)

// environmentFile is where an image sets variables for everybody: pam_env(8)'s file.
const environmentFile = "/etc/environment"

// environmentFileLimit is the most bytes of it that are read.
const environmentFileLimit = 64 << 10

// executable is X_OK of access(2).
const executable = 1

// surroundings returns what each command of a user gets, however the agent itself was started: the
// working directory, and the environment, which is made of defaults and, above them, environmentFile's
// variables as they are now.
func surroundings(user account) (directory string, environment []string) {
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

// withVariables returns an environment with some variables of it replaced or added.
func withVariables(environment, variables []string) []string {
	for _, variable := range variables {
		name, _, _ := strings.Cut(variable, "=")
		environment = slices.DeleteFunc(environment, func(other string) bool {
			return strings.HasPrefix(other, name+"=")
		})
		environment = append(environment, variable)
	}
	return environment
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
