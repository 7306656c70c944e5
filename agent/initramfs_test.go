package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestBootConfig(t *testing.T) {
	const rest = `"root":"/dev/vda","root_type":"ext4","upper_disk":"/dev/vdc","modules_disk":"/dev/vdb","release":"6.1.0-1","init":"/sbin/init"`
	config, err := decodeBootConfig([]byte(`{"modules":["/a.ko","/b.ko"],` + rest + `}`))
	want := bootConfig{
		modules: []string{"/a.ko", "/b.ko"}, root: "/dev/vda", rootType: "ext4", upperDisk: "/dev/vdc",
		modulesDisk: "/dev/vdb", release: "6.1.0-1", init: "/sbin/init",
	}
	if err != nil || !slices.Equal(config.modules, want.modules) || config.root != want.root ||
		config.rootType != want.rootType || config.upperDisk != want.upperDisk || config.modulesDisk != want.modulesDisk ||
		config.release != want.release || config.init != want.init {
		t.Errorf("%+v, %v", config, err)
	}
	for _, wrong := range []string{
		``, `[]`, `{` + rest + `}`, `{"modules":[1],` + rest + `}`, `{"modules":[],"more":1,` + rest + `}`,
		`{"modules":[],` + strings.Replace(rest, "6.1.0-1", "..", 1) + `}`,
		`{"modules":[],` + strings.Replace(rest, "6.1.0-1", "a/b", 1) + `}`,
	} {
		if config, err := decodeBootConfig([]byte(wrong)); err == nil {
			t.Errorf("%s: %+v", wrong, config)
		}
	}
}

func TestOpenInRootNeverLeavesIt(t *testing.T) {
	root := t.TempDir()
	for _, directory := range []string{"usr/lib/modules", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, directory), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{"lib": "usr/lib", "absolute": "/usr/lib", "out": "/../../../../tmp", "etc": "/etc"}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"lib/modules":              "usr/lib/modules",
		"absolute/modules":         "usr/lib/modules",
		"out":                      "tmp",
		"../../usr/lib":            "usr/lib",
		"etc":                      "",
		"/proc/self/root/etc":      "",
		"absolute/../../../../etc": "",
	} {
		fd, err := openInRoot(root, path)
		got := ""
		if err == nil {
			got, err = os.Readlink(descriptorPath(fd))
			syscall.Close(fd)
		}
		if want == "" && err == nil || want != "" && got != filepath.Join(root, want) {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

func TestWaitForDevice(t *testing.T) {
	if err := waitForDevice("/dev/null"); err != nil {
		t.Error(err)
	}
}
