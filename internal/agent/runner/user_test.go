package runner

import (
	"slices"
	"strings"
	"testing"

	"dstack/internal/agentapi"
)

const passwd = `root:x:0:0:root:/root:/bin/bash
dev:x:1000:1000:Dev:/home/dev:/bin/zsh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
broken line
bad:x:minus:0::/:/bin/sh
`

const group = `root:x:0:
dev:x:1000:
docker:x:998:dev,other
audio:x:29:dev
broken
`

func TestResolveUser(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		name   string
		user   *agentapi.User
		want   account
		groups []uint32
		fails  bool
	}{
		{name: "a name", user: &agentapi.User{Username: "dev"}, want: account{uid: 1000, gid: 1000, name: "dev", home: "/home/dev", shell: "/bin/zsh"}, groups: []uint32{1000, 998, 29}},
		{name: "an id that is known", user: &agentapi.User{UID: id(1000)}, want: account{uid: 1000, gid: 1000, name: "dev", home: "/home/dev", shell: "/bin/zsh"}, groups: []uint32{1000, 998, 29}},
		{name: "an id that is not", user: &agentapi.User{UID: id(4242)}, want: account{uid: 4242, name: "4242", home: "/", shell: "/bin/sh"}, groups: []uint32{0}},
		{name: "a group by name", user: &agentapi.User{Username: "dev", Groupname: "docker"}, want: account{uid: 1000, gid: 998, name: "dev", home: "/home/dev", shell: "/bin/zsh"}, groups: []uint32{998}},
		{name: "a group by id", user: &agentapi.User{UID: id(1000), GID: id(7)}, want: account{uid: 1000, gid: 7, name: "dev", home: "/home/dev", shell: "/bin/zsh"}, groups: []uint32{7}},
		{name: "no home", user: &agentapi.User{Username: "nobody"}, want: account{uid: 65534, gid: 65534, name: "nobody", home: "/", shell: "/usr/sbin/nologin"}, groups: []uint32{65534}},
		{name: "an unknown name", user: &agentapi.User{Username: "ghost"}, fails: true},
		{name: "an unknown group", user: &agentapi.User{Username: "dev", Groupname: "ghost"}, fails: true},
		{name: "neither", user: &agentapi.User{}, fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := resolveUser(c.user, passwd, group)
			if (err != nil) != c.fails {
				t.Fatalf("error %v", err)
			}
			if c.fails {
				return
			}
			groups := got.groups
			got.groups = nil
			if got.uid != c.want.uid || got.gid != c.want.gid || got.name != c.want.name || got.home != c.want.home || got.shell != c.want.shell {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if !slices.Equal(groups, c.groups) {
				t.Errorf("groups %v, want %v", groups, c.groups)
			}
		})
	}
}

// An image without any file of users still has root.
// A group of thousands hides none of those behind it.
func TestLargeGroup(t *testing.T) {
	got := parseGroups("all:x:7:" + strings.Repeat("somebody,", 10_000) + "ann\ndocker:x:8:ann\r\n")
	if len(got) != 2 || len(got[0].members) != 10_001 || got[1].gid != 8 || got[1].members[0] != "ann" {
		t.Errorf("%d groups", len(got))
	}
}

func TestResolveUserWithoutFiles(t *testing.T) {
	zero := int64(0)
	a, err := resolveUser(&agentapi.User{UID: &zero}, "", "")
	if err != nil || a.home != "/root" || a.shell != "/bin/sh" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestExpand(t *testing.T) {
	a := account{home: "/home/dev"}
	for _, c := range []struct{ path, base, want string }{
		{"~", "", "/home/dev"}, {"~/x", "", "/home/dev/x"}, {"/a/../b", "/w", "/b"}, {"x", "/w", "/w/x"}, {"../x", "/w/y", "/w/x"},
	} {
		if got, err := a.expand(c.path, c.base); err != nil || got != c.want {
			t.Errorf("expand(%q, %q) = %q, %v, want %q", c.path, c.base, got, err, c.want)
		}
	}
	for _, bad := range [][2]string{{"~root/x", "/w"}, {"x", ""}} {
		if got, err := a.expand(bad[0], bad[1]); err == nil {
			t.Errorf("expand(%q, %q) = %q", bad[0], bad[1], got)
		}
	}
}
