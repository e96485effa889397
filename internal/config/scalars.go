package config

import (
	"fmt"
	"strings"
	"unicode"
)

// RegistryAuth are credentials for an image registry; both may refer to secrets.
type RegistryAuth struct {
	Username string `json:"username" cfg:"req"`
	Password string `json:"password" cfg:"req"`
}

// PythonVersion is the interpreter of the default image; 3.10 survives YAML's floats.
type PythonVersion string

func (p *PythonVersion) decodeNode(d *decoder, n *node, loc []any) {
	s := n.text
	if n.kind == floatKind {
		if s = floatText(n.float); s == "3.1" {
			s = "3.10"
		}
	}
	versions := pythonVersions()
	if n.kind == stringKind || n.kind == floatKind {
		for _, v := range versions {
			if v == s {
				*p = PythonVersion(s)
				return
			}
		}
		d.reject(n, loc, "'%s' is not a valid PythonVersion. Use one of %s", s, strings.Join(versions, ", "))
		return
	}
	d.add(n, loc, "enum", "Input should be %s", orList(versions))
}

func pythonVersions() []string {
	return []string{"3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"}
}

// UnixUser is user[:group], names or ids.
type UnixUser string

func (u *UnixUser) decodeNode(d *decoder, n *node, loc []any) {
	s, ok := d.text(n, loc)
	if !ok {
		return
	}
	if _, err := ParseUnixUser(s); err != nil {
		d.reject(n, loc, "%v", err)
		return
	}
	*u = UnixUser(s)
}

// User is a parsed UnixUser.
type User struct {
	UID       *int64
	Username  string
	GID       *int64
	Groupname string
}

// ParseUnixUser reads user[:group].
func ParseUnixUser(s string) (User, error) {
	parts := strings.Split(s, ":")
	if len(parts) > 2 {
		return User{}, fmt.Errorf("invalid user format: too many parts")
	}
	var u User
	var err error
	if u.UID, u.Username, err = idOrName(parts[0], "user", "uid"); err != nil {
		return User{}, err
	}
	if len(parts) == 2 {
		u.GID, u.Groupname, err = idOrName(parts[1], "group", "gid")
	}
	return u, err
}

func idOrName(s, what, id string) (*int64, string, error) {
	if s == "" {
		return nil, "", fmt.Errorf("invalid user format: empty %s name or id", what)
	}
	v, ok := looseInt(s)
	if !ok || strings.Contains(s, ".") {
		if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsDigit(r) }) {
			return nil, "", fmt.Errorf("invalid user format: illegal %s %s", id, s) // too long, or other digits than 0 to 9
		}
		return nil, s, nil
	}
	if v < 0 {
		return nil, "", fmt.Errorf("invalid user format: negative %s %d", id, v)
	}
	return &v, "", nil
}

// Shell is sh, bash or an absolute path.
type Shell string

func (s *Shell) decodeNode(d *decoder, n *node, loc []any) {
	v, ok := d.text(n, loc)
	if !ok {
		return
	}
	if v != "sh" && v != "bash" && !strings.HasPrefix(v, "/") {
		d.reject(n, loc, "The value must be `sh`, `bash`, or an absolute path")
		return
	}
	*s = Shell(v)
}
