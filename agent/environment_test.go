package main

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestEnvironmentFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "environment")
	content := "# a comment\nPATH=/a:/b\nexport QUOTED=\"two words\"\n SINGLE='x' \nEMPTY=\nEQUALS=a=b\n" +
		"no assignment\n=x\nTWO WORDS=x\nLAST=end"
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"PATH": "/a:/b", "QUOTED": "two words", "SINGLE": "x", "EMPTY": "", "EQUALS": "a=b", "LAST": "end",
	}
	if got := readEnvironment(path); !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := readEnvironment(path + ".missing"); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestFindProgram(t *testing.T) {
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	environment := []string{"X=y", "PATH=/nonexistent:" + directory + ":/usr/bin:/bin"}
	if got, err := findProgram("sh", environment); err != nil || filepath.Base(got) != "sh" {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"plain", "no-such-program-52", "."} {
		if got, err := findProgram(name, environment); err == nil {
			t.Errorf("%s was found: %q", name, got)
		}
	}
}
