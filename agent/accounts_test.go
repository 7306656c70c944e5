package main

import (
	"os"
	"slices"
	"strconv"
	"strings"
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
	// Whoever is named in a group of this machine has it, besides the own one.
	for columns := range columnsOf("/etc/group", 4) {
		gid, err := strconv.ParseUint(columns[2], 10, 32)
		if err != nil || columns[3] == "" {
			continue
		}
		member, _, _ := strings.Cut(columns[3], ",")
		got := account{name: member, uid: 54321, gid: 54322}.credential()
		if got.Groups[0] != 54322 || !slices.Contains(got.Groups, uint32(gid)) {
			t.Errorf("%s has %v, and not %d", member, got.Groups, gid)
		}
	}
}
