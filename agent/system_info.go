package main

import (
	"encoding/json/jsontext"
	"os"
	"strings"
	"syscall"
)

const (
	// imageManifest is what bouvet writes into an image about it.
	imageManifest = "/usr/share/bouvet/manifest.json"
	// manifestLimit is the most bytes of it that are told.
	manifestLimit = 256 << 10
	machineIDFile = "/etc/machine-id"
	// smallFile is more than any file of the kernel's has that is read as a whole.
	smallFile = 64 << 10
)

// systemInfo returns what the machine and the agent are.
func systemInfo() object {
	var machine syscall.Utsname
	_ = syscall.Uname(&machine)
	result := object(nil).text("agent", []byte(version)).text("source", []byte(sourceDigest)).
		integer("protocol", protocolVersion).text("kernel", kernelText(machine.Release[:])).
		text("architecture", kernelText(machine.Machine[:])).text("hostname", kernelText(machine.Nodename[:])).
		text("boot_id", firstLine("/proc/sys/kernel/random/boot_id")).
		text("machine_id", firstLine(machineIDFile)).integer("uptime_ms", uptime().Milliseconds())
	if manifest, err := readRegular(imageManifest, manifestLimit); err == nil {
		value := jsontext.Value(manifest)
		if value.Compact() == nil && value.Kind() == '{' {
			result = result.value("image", value)
		}
	}
	return result
}

// kernelText is a text that the kernel ends by a zero. Its type differs between architectures.
func kernelText[Character int8 | uint8](field []Character) []byte {
	var text []byte
	for _, character := range field {
		if character == 0 {
			break
		}
		text = append(text, byte(character))
	}
	return text
}

// firstLine returns a small file's first line; nothing if it cannot be read.
func firstLine(path string) []byte {
	content, err := readRegular(path, smallFile)
	if err != nil {
		return nil
	}
	line, _, _ := strings.Cut(string(content), "\n")
	return []byte(strings.TrimSpace(line))
}

// countEntries counts what is in a directory that counts is true for.
func countEntries(directory string, counts func(string) bool) int64 {
	file, err := os.Open(directory)
	if err != nil {
		return 0
	}
	defer file.Close()
	var number int64
	for {
		names, err := file.Readdirnames(256)
		for _, name := range names {
			if counts(name) {
				number++
			}
		}
		if err != nil {
			return number
		}
	}
}
