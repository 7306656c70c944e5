package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// archiveOf returns an archive of entries; a regular one has its name as its content.
func archiveOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, entry := range entries {
		if entry.Typeflag == 0 {
			entry.Typeflag = tar.TypeReg
		}
		if entry.Typeflag == tar.TypeReg {
			entry.Size = int64(len(entry.Name))
		}
		if entry.Mode == 0 {
			entry.Mode = 0o644
		}
		if err := w.WriteHeader(&entry); err != nil {
			t.Fatal(err)
		}
		if entry.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, entry.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// cage returns a directory to extract to and what lies around it, which has to stay as it is.
func cage(t testing.TB) (directory string, check func()) {
	t.Helper()
	outside := t.TempDir()
	directory = filepath.Join(outside, "inside")
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	return directory, func() {
		t.Helper()
		var status syscall.Stat_t
		secret := filepath.Join(outside, "secret")
		content, err := os.ReadFile(secret)
		if err != nil || string(content) != "secret" || syscall.Stat(secret, &status) != nil || status.Nlink != 1 ||
			status.Mode != syscall.S_IFREG|0o600 {
			t.Errorf("the file outside was touched: %q, %v, %o, %d links", content, err, status.Mode, status.Nlink)
		}
		entries, _ := os.ReadDir(outside)
		for _, entry := range entries {
			if entry.Name() != "secret" && entry.Name() != "inside" {
				t.Errorf("outside lies %s", entry.Name())
			}
		}
	}
}

func link(name, target string) tar.Header {
	return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink}
}

func TestArchivesAreContained(t *testing.T) {
	hard := func(name, target string) tar.Header {
		return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink}
	}
	for name, entries := range map[string][]tar.Header{
		"a parent":                       {{Name: "../new"}},
		"a parent in the middle":         {{Name: "a/../../new"}},
		"absolute":                       {{Name: "/tmp/bouvet-test-absolute"}},
		"through a link":                 {link("l", ".."), {Name: "l/new"}},
		"through an absolute link":       {link("l", "/tmp"), {Name: "l/bouvet-test-absolute"}},
		"through two links":              {link("a", "."), link("a/b", ".."), {Name: "a/b/new"}},
		"through the kernel's own links": {link("l", "/proc/self/cwd"), {Name: "l/new"}},
		"a directory through a link":     {link("l", ".."), {Name: "l/new/", Typeflag: tar.TypeDir}},
		"a hard link out":                {hard("h", "../secret")},
		"an absolute hard link":          {hard("h", "/etc/passwd")},
		"a hard link through a link":     {link("l", ".."), hard("h", "l/secret")},
		"a device through a link":        {link("l", ".."), {Name: "l/new", Typeflag: tar.TypeFifo}},
		"too deep":                       {{Name: strings.Repeat("d/", depthLimit+1) + "f"}},
		"a file that is the directory":   {{Name: "."}},
	} {
		t.Run(name, func(t *testing.T) {
			directory, check := cage(t)
			archive := archiveOf(t, entries...)
			if err := extractArchive(bytes.NewReader(archive), directory, os.Geteuid() == 0, make([]byte, 4096)); err == nil {
				t.Error("it was extracted")
			}
			check()
		})
	}
}

func TestLinksOutAreNeverFollowed(t *testing.T) {
	directory, check := cage(t)
	archive := archiveOf(t,
		link("file", "../secret"), tar.Header{Name: "file"},
		link("dir", ".."), tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o700}, tar.Header{Name: "dir/new"},
		link("stays", "../secret"), tar.Header{Name: "name", Linkname: "stays", Typeflag: tar.TypeLink})
	if err := extractArchive(bytes.NewReader(archive), directory, os.Geteuid() == 0, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	check()
	if got := mustRead(t, filepath.Join(directory, "file")); got != "file" {
		t.Errorf("%q", got)
	}
	if got := mustRead(t, filepath.Join(directory, "dir/new")); got != "dir/new" {
		t.Errorf("%q", got)
	}
	if got, err := os.Readlink(filepath.Join(directory, "name")); got != "../secret" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTreesSurviveArchives(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "target")
	when := time.Unix(1_000_000_000, 0)
	for name, mode := range map[string]os.FileMode{"b/f": 0o640, "b/empty": 0o600, "a": 0o755} {
		path := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Repeat(name, 50_000*int(mode&0o100)/0o100)), mode); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Link(filepath.Join(source, "b/f"), filepath.Join(source, "c")))
	must(os.Symlink("b/f", filepath.Join(source, "link")))
	must(syscall.Mkfifo(filepath.Join(source, "fifo"), 0o600))
	must(syscall.Setxattr(filepath.Join(source, "b/f"), "user.name", []byte("a\x00=\nb"), 0))
	must(os.Chmod(filepath.Join(source, "b"), 0o555|os.ModeSticky))
	must(os.Chtimes(filepath.Join(source, "b"), when, when))
	var archives [2]bytes.Buffer
	for i := range archives {
		tree, err := openTree(source)
		must(err)
		must(tree.sendTo(&archives[i], make([]byte, 4096)))
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		t.Error("two archives of one tree differ")
	}
	must(extractArchive(&archives[0], target, os.Geteuid() == 0, make([]byte, 4096)))
	again, err := openTree(target)
	must(err)
	var second bytes.Buffer
	must(again.sendTo(&second, make([]byte, 4096)))
	if got, want := listArchive(t, second.Bytes()), listArchive(t, archives[1].Bytes()); !slices.Equal(got[1:], want[1:]) {
		t.Errorf("%q\nnot\n%q", got, want)
	}
}

func listArchive(t *testing.T, archive []byte) (found []string) {
	t.Helper()
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, strings.Join([]string{
			header.Name, header.Linkname, string(header.Typeflag), os.FileMode(header.Mode).String(),
			header.ModTime.String(), header.PAXRecords[attributePrefix+"user.name"], string(content),
		}, "|"))
	}
}

// FuzzInsideName: a name is refused, or names something inside.
func FuzzInsideName(f *testing.F) {
	for _, seed := range []string{"a/b", "../a", "/a", "a/../b", "./", "", "a//./b/", "...", "a\x00b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		inside, err := insideName(name)
		if err == nil && inside != "" && !filepath.IsLocal(inside) {
			t.Errorf("%q is %q", name, inside)
		}
	})
}

// FuzzExtractArchive: whatever comes, nothing outside is touched.
func FuzzExtractArchive(f *testing.F) {
	f.Add(archiveOf(f, tar.Header{Name: "a/b"}, link("l", ".."), tar.Header{Name: "l/new"}))
	f.Add(archiveOf(f, link("l", "../secret"), tar.Header{Name: "l"}, tar.Header{Name: "d/", Typeflag: tar.TypeDir}))
	f.Add(archiveOf(f, tar.Header{Name: "h", Linkname: "../secret", Typeflag: tar.TypeLink}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, archive []byte) {
		for header := range slices.Chunk(archive, 512) {
			if len(archive) > 1<<16 || len(header) > 156 && header[156] == tar.TypeGNUSparse || bytes.Contains(header, []byte("sparse")) {
				return // a sparse file may be as large as the disk
			}
		}
		directory, check := cage(t)
		_ = extractArchive(bytes.NewReader(archive), directory, os.Geteuid() == 0, make([]byte, 4096))
		check()
	})
}
