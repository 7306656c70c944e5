package main

import (
	"os"
	"slices"
	"testing"
)

func TestAccountsByNameAndNumber(t *testing.T) {
	root, found := findAccount("root")
	if !found || root.uid != 0 || root.gid != 0 || root.name != "root" {
		t.Errorf("%+v", root)
	}
	if same, found := findAccount("0"); !found || same != root {
		t.Errorf("%+v", same)
	}
	const nobodys = "54321"
	stranger, found := findAccount(nobodys)
	if wanted := (account{nobodys, "/", "/bin/sh", 54321, 54321}); !found || stranger != wanted {
		t.Errorf("%+v", stranger)
	}
	for _, wrong := range []string{"no such user", "-1", "4294967296", ""} {
		if unknown, found := findAccount(wrong); found {
			t.Errorf("%q is %+v", wrong, unknown)
		}
	}
	if user, failure := wantedAccount(""); failure != nil || int(user.uid) != os.Getuid() {
		t.Errorf("%+v, %v", user, failure)
	}
	if _, failure := wantedAccount("no such user"); failure == nil || failure.code != codeInvalidParams {
		t.Errorf("%v", failure)
	}
}

func TestCredentialsHaveTheGroupsOfTheUser(t *testing.T) {
	if own := currentAccount(); own.credential() != nil {
		t.Error("the agent's own user needs none")
	}
	stranger := account{name: "54321", uid: 54321, gid: 54322}
	if got := stranger.credential(); got.Uid != 54321 || got.Gid != 54322 || !slices.Equal(got.Groups, []uint32{54322}) {
		t.Errorf("%+v", got)
	}
	app := account{name: "app", uid: 100, gid: 101}
	if got := app.groupsIn(testGroup); !slices.Equal(got, []uint32{101, 63, 77}) {
		t.Errorf("%v", got)
	}
	if got := (account{gid: 5}).groupsIn("all:x:7:\n"); !slices.Equal(got, []uint32{5}) {
		t.Errorf("who has no name has %v", got)
	}
}

func TestANameIsPreferredToANumber(t *testing.T) {
	const numbered = "first:x:7:70::/first:\nsecond:x:7:71::/second:/bin/bash\n"
	const passwd = numbered + "7:x:8:80::/seven:/bin/sh\n"
	for wanted, name := range map[account]string{
		{"first", "/first", "/bin/sh", 7, 70}:     "first",
		{"second", "/second", "/bin/bash", 7, 71}: "second",
		{"7", "/seven", "/bin/sh", 8, 80}:         "7",
	} {
		if got, known := accountIn(passwd, name); !known || got != wanted {
			t.Errorf("%s is %+v", name, got)
		}
	}
	if got, known := accountIn(numbered, "7"); !known || got.name != "first" {
		t.Errorf("%+v", got)
	}
	if got, known := accountIn(passwd, "9"); known {
		t.Errorf("%+v", got)
	}
}
