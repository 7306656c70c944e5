package main

import (
	"slices"
	"testing"
)

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\ndamaged line\napp:x:100:101:an app:/srv/app:/bin/sh\n"
	testGroup  = "root:x:0:\napp:x:101:\naudio:x:63:other,app\ndata:x:77:app\nbad:x:none:app\n"
)

func TestIdentity(t *testing.T) {
	for _, test := range []struct {
		who      string
		uid, gid uint32
		groups   []uint32
		home     string
	}{
		{"", 0, 0, []uint32{0}, "/root"},
		{"root", 0, 0, []uint32{0}, "/root"},
		{"app", 100, 101, []uint32{101, 63, 77}, "/srv/app"},
		{"100", 100, 101, []uint32{101, 63, 77}, "/srv/app"},
		{"app:audio", 100, 63, []uint32{63}, "/srv/app"},
		{"app:5000", 100, 5000, []uint32{5000}, "/srv/app"},
		{"app:", 100, 101, []uint32{101, 63, 77}, "/srv/app"},
		{"4000", 4000, 0, []uint32{0}, "/"},
		{"4000:data", 4000, 77, []uint32{77}, "/"},
	} {
		found, err := resolveIdentity(test.who, testPasswd, testGroup)
		if err != nil {
			t.Errorf("%q: %v", test.who, err)
			continue
		}
		who := found.credential
		if who.Uid != test.uid || who.Gid != test.gid || !slices.Equal(who.Groups, test.groups) || found.home != test.home {
			t.Errorf("%q is %d:%d %v %q", test.who, who.Uid, who.Gid, who.Groups, found.home)
		}
	}
	for _, who := range []string{"nobody", "app:nobody", "-1", "4294967296", "app:-1", "damaged line"} {
		if found, err := resolveIdentity(who, testPasswd, testGroup); err == nil {
			t.Errorf("%q is %v", who, found)
		}
	}
}

func TestIdentityWithoutAccounts(t *testing.T) {
	found, err := resolveIdentity("7:8", "", "")
	if err != nil || found.credential.Uid != 7 || found.credential.Gid != 8 {
		t.Errorf("7:8 is %v, %v", found, err)
	}
}

func TestDecodeService(t *testing.T) {
	const content = `{"arguments":["/bin/app","-x"],"environment":["A=b"],"user":"7","directory":"/srv","network":"dhcp"}`
	s, err := decodeService([]byte(content))
	if err != nil || !slices.Equal(s.arguments, []string{"/bin/app", "-x"}) || s.user != "7" || s.network != "dhcp" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, damaged := range []string{"", "{}", "[]", `{"arguments":"/bin/app"}`, content + "x"} {
		if s, err := decodeService([]byte(damaged)); err == nil {
			t.Errorf("%q is %+v", damaged, s)
		}
	}
}

func TestSets(t *testing.T) {
	if !sets([]string{"PATH=/x"}, defaultPath) || sets([]string{"PATHS=/x", "A=PATH=/x"}, defaultPath) {
		t.Error("PATH is not recognised")
	}
}
