package runner

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"dstack/internal/agentapi"
)

// account is the user that the job runs as.
type account struct {
	uid, gid uint32
	groups   []uint32
	name     string
	home     string
	shell    string
}

// passwdEntry is one line of /etc/passwd.
type passwdEntry struct {
	name, home, shell string
	uid, gid          uint32
}

// parsePasswd reads the lines that are well formed.
func parsePasswd(text string) []passwdEntry {
	var list []passwdEntry
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(f) < 7 {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil || f[0] == "" {
			continue
		}
		list = append(list, passwdEntry{f[0], f[5], f[6], uint32(uid), uint32(gid)})
	}
	return list
}

// groupEntry is one line of /etc/group.
type groupEntry struct {
	name    string
	gid     uint32
	members []string
}

func parseGroups(text string) []groupEntry {
	var list []groupEntry
	for line := range strings.Lines(text) { // of any length: some groups have thousands of members
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(f) < 4 {
			continue
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		list = append(list, groupEntry{f[0], uint32(gid), strings.Split(f[3], ",")})
	}
	return list
}

// resolveUser finds the account of the job (host-agents 2.7). Without a user it is the
// runner's own.
func resolveUser(u *agentapi.User, passwd, group string) (account, error) {
	users, groups := parsePasswd(passwd), parseGroups(group)
	a := account{uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}
	named := ""
	if u != nil {
		switch {
		case u.UID != nil && !validID(*u.UID):
			return account{}, fmt.Errorf("%d is not a user id", *u.UID)
		case u.UID != nil:
			a.uid, a.gid = uint32(*u.UID), 0
		case u.Username != "":
			named = u.Username
		default:
			return account{}, fmt.Errorf("neither uid nor username is set")
		}
	}
	found := false
	for _, e := range users {
		if named != "" && e.name == named || named == "" && e.uid == a.uid {
			a.uid, a.gid, a.name, a.home, a.shell, found = e.uid, e.gid, e.name, e.home, e.shell, true
			break
		}
	}
	if named != "" && !found {
		return account{}, fmt.Errorf("unknown user %s", named)
	}
	if u != nil && (u.GID != nil || u.Groupname != "") {
		gid, err := groupID(u, groups)
		if err != nil {
			return account{}, err
		}
		a.gid = gid
		a.groups = []uint32{gid}
	} else {
		a.groups = []uint32{a.gid}
		for _, g := range groups {
			for _, m := range g.members {
				if m == a.name && a.name != "" && g.gid != a.gid {
					a.groups = append(a.groups, g.gid)
				}
			}
		}
	}
	if a.name == "" {
		a.name = strconv.FormatUint(uint64(a.uid), 10)
	}
	a.home = usableHome(a)
	if a.shell == "" {
		a.shell = "/bin/sh"
	}
	return a, nil
}

// validID leaves out the highest number, which means "none" to the kernel.
func validID(n int64) bool { return n >= 0 && n < math.MaxUint32 }

func groupID(u *agentapi.User, groups []groupEntry) (uint32, error) {
	if u.GID != nil {
		if !validID(*u.GID) {
			return 0, fmt.Errorf("%d is not a group id", *u.GID)
		}
		return uint32(*u.GID), nil
	}
	for _, g := range groups {
		if g.name == u.Groupname {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf("unknown group %s", u.Groupname)
}

// usableHome is the account's home when it can be one, else "/".
func usableHome(a account) string {
	home := a.home
	if home == "" && a.uid == 0 {
		home = "/root"
	}
	if !filepath.IsAbs(home) || strings.Contains(home, "nonexistent") {
		return "/"
	}
	if st, err := os.Stat(home); err == nil && !st.IsDir() {
		return "/"
	}
	return home
}

// expand resolves "~" and relative paths; ~name is refused.
func (a account) expand(path, base string) (string, error) {
	switch {
	case path == "~":
		return a.home, nil
	case strings.HasPrefix(path, "~/"):
		return filepath.Join(a.home, path[2:]), nil
	case strings.HasPrefix(path, "~"):
		return "", fmt.Errorf("%s: `~username` syntax is not supported", path)
	case filepath.IsAbs(path):
		return filepath.Clean(path), nil
	case base == "":
		return "", fmt.Errorf("%s: the path must be absolute", path)
	}
	return filepath.Join(base, path), nil
}

// own makes directories down to path, giving those that are new to the account.
func (a account) own(path string) error { return a.ownAs(path, 0o755) }

// ownPrivate is own for directories that nobody else may look into.
func (a account) ownPrivate(path string) error { return a.ownAs(path, 0o700) }

func (a account) ownAs(path string, mode os.FileMode) error {
	missing := []string{}
	for p := path; p != "/" && p != "."; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err == nil {
			if !st.IsDir() {
				return fmt.Errorf("%s is not a directory", p)
			}
			break
		}
		missing = append(missing, p)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], mode); err != nil && !os.IsExist(err) {
			return err
		}
		_ = os.Chown(missing[i], int(a.uid), int(a.gid)) // as far as we may
	}
	return nil
}
