package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestTakeOwnership(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	for _, directory := range []string{from, to} {
		if err := os.Mkdir(directory, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Chmod(from, 0o1751); err != nil {
		t.Fatal(err)
	}
	if err := takeOwnership(from, to); err != nil {
		t.Fatal(err)
	}
	var status syscall.Stat_t
	if err := syscall.Stat(to, &status); err != nil || status.Mode&0o7777 != 0o1751 {
		t.Errorf("%o, %v", status.Mode, err)
	}
	if err := takeOwnership(from+"-missing", to); err == nil {
		t.Error("a missing directory has an owner")
	}
}
