// Command bouvet-agent serves a host's requests inside a virtual machine.
package main

import "os"

// Set by the build: the project's version and a digest of everything the binary was made of.
var (
	version      = "0"
	sourceDigest = "unknown"
)

func main() {
	os.Stdout.WriteString("bouvet-agent " + version + " (" + sourceDigest + ")\n")
}
