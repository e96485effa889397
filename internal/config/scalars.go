package config

import (
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// EnvValue is a variable's value, or the name of the caller's variable that holds it.
type EnvValue struct {
	Value string
	// From names a variable of the caller; Value is then not known yet.
	From string
}

// MarshalJSON writes a string, or {"key": name} for an unresolved one.
func (v EnvValue) MarshalJSON() ([]byte, error) {
	if v.From != "" {
		return json.Marshal(map[string]string{"key": v.From})
	}
	return json.Marshal(v.Value)
}

// Env are environment variables by name.
type Env map[string]EnvValue

// Unresolved lists the names that still wait for the caller's environment, sorted.
func (e Env) Unresolved() []string {
	var names []string
	for _, k := range sortedKeys(e) {
		if e[k].From != "" {
			names = append(names, k)
		}
	}
	return names
}

// Values returns the resolved variables.
func (e Env) Values() map[string]string {
	m := make(map[string]string, len(e))
	for k, v := range e {
		m[k] = v.Value
	}
	return m
}

// UnmarshalJSON reads every form.
func (e *Env) UnmarshalJSON(data []byte) error { return decodeStored(data, e) }

var envItem = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)(=.*$|$)`)
})

// ParseEnvItem reads NAME=value, or NAME, which is taken from the caller.
func ParseEnvItem(s string) (name string, v EnvValue, err error) {
	if !envItem().MatchString(s) {
		return "", EnvValue{}, fmt.Errorf("%s is not NAME=value or NAME", s)
	}
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return name, EnvValue{From: name}, nil
	}
	return name, EnvValue{Value: value}, nil
}

func (e *Env) decodeNode(d *decoder, n *node, loc []any) {
	*e = Env{}
	switch n.kind {
	case listKind:
		for i, item := range n.list {
			if item.kind != stringKind {
				d.add(item, at(loc, i), "string_type", "Input should be a valid string")
				continue
			}
			if _, ok := d.text(item, at(loc, i)); !ok {
				continue
			}
			name, v, err := ParseEnvItem(item.text)
			if err != nil {
				d.add(item, at(loc, i), "string_pattern_mismatch", "String should match pattern '%s'", envItem())
				continue
			}
			if _, again := (*e)[name]; again {
				d.reject(item, at(loc, i), "Duplicate environment variable: %s", item.text)
				continue
			}
			(*e)[name] = v
		}
	case mapKind:
		for _, k := range n.keys {
			if !d.stringKey(n, loc, k) {
				continue
			}
			v := n.values[k]
			if v.kind == mapKind {
				var ref struct {
					Key string `json:"key" cfg:"req"`
				}
				d.structure(v, at(loc, k), reflect.ValueOf(&ref).Elem())
				(*e)[k] = EnvValue{From: ref.Key}
				continue
			}
			if s, ok := d.text(v, at(loc, k)); ok {
				(*e)[k] = EnvValue{Value: s}
			}
		}
	default:
		d.add(n, loc, "dict_type", "Input should be a list of NAME=value or a mapping")
	}
}

// PortMapping forwards LocalPort of the user's machine to ContainerPort; nil picks any.
type PortMapping struct {
	LocalPort     *int `json:"local_port" cfg:"gt=0,max=65535"`
	ContainerPort int  `json:"container_port" cfg:"req,gt=0,max=65535"`
}

// UnmarshalJSON reads every form.
func (p *PortMapping) UnmarshalJSON(data []byte) error { return decodeStored(data, p) }

func (p *PortMapping) decodeNode(d *decoder, n *node, loc []any) {
	switch n.kind {
	case mapKind:
		type plain PortMapping
		d.structure(n, loc, reflect.ValueOf((*plain)(p)).Elem())
	case intKind:
		if v, ok := d.integer(n, loc); ok && d.port(n, loc, v) {
			port := int(v)
			*p = PortMapping{LocalPort: &port, ContainerPort: port}
		}
	case stringKind:
		m, err := ParsePort(n.text)
		if err != nil {
			d.reject(n, loc, "%v", err)
			return
		}
		*p = m
	default:
		d.add(n, loc, "int_type", "Input should be a port number, \"local:container\" or an object")
	}
}

func (d *decoder) port(n *node, loc []any, v int64) bool {
	if v < 1 {
		d.add(n, loc, "greater_than", "Input should be greater than 0")
		return false
	}
	if v > 65535 {
		hint := ""
		if n.isSexagesimal() {
			hint = ": " + n.sexagesimalHint()
		}
		d.add(n, loc, "less_than_equal", "Input should be less than or equal to 65535%s", hint)
		return false
	}
	return true
}

// ParsePort reads "n", "local:container" and "*:container".
func ParsePort(s string) (PortMapping, error) {
	local, container, ok := strings.Cut(s, ":")
	if !ok {
		local, container = s, s
	}
	c, err := portNumber(container)
	if err != nil {
		return PortMapping{}, fmt.Errorf("%s: %w", s, err)
	}
	if local == "*" && ok {
		return PortMapping{ContainerPort: c}, nil
	}
	l, err := portNumber(local)
	if err != nil {
		return PortMapping{}, fmt.Errorf("%s: %w", s, err)
	}
	return PortMapping{LocalPort: &l, ContainerPort: c}, nil
}

func portNumber(s string) (int, error) {
	if s == "" || !allDigits(s) || len(s) > 9 {
		return 0, fmt.Errorf("a port is a number, \"local:container\" or \"*:container\"")
	}
	n, _ := strconv.Atoi(s)
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("a port lies between 1 and 65535")
	}
	return n, nil
}

// Mount binds a network volume (Names) or a directory of the instance (InstancePath).
type Mount struct {
	Names        []string // alternatives; empty for an instance mount
	nameList     bool     // given as a list
	InstancePath string
	Optional     bool
	Path         string
}

// MarshalJSON writes the form that is set.
func (m Mount) MarshalJSON() ([]byte, error) {
	if m.InstancePath != "" {
		return json.Marshal(instanceMount{m.InstancePath, m.Path, m.Optional})
	}
	var name any = m.Names
	if !m.nameList && len(m.Names) == 1 {
		name = m.Names[0]
	}
	return json.Marshal(struct {
		Name any    `json:"name"`
		Path string `json:"path"`
	}{name, m.Path})
}

// UnmarshalJSON reads every form.
func (m *Mount) UnmarshalJSON(data []byte) error { return decodeStored(data, m) }

func (m *Mount) decodeNode(d *decoder, n *node, loc []any) {
	switch {
	case n.kind == stringKind:
		if _, ok := d.text(n, loc); !ok {
			return
		}
		src, dst, ok := strings.Cut(n.text, ":")
		if !ok || strings.Contains(dst, ":") {
			d.reject(n, loc, "invalid mount point format: %s", n.text)
			return
		}
		m.Path = d.mountPath(n, loc, dst)
		if strings.Contains(src, "/") {
			m.InstancePath = d.mountPath(n, loc, src)
			return
		}
		if src == "" {
			d.reject(n, loc, "empty volume name: %s", n.text)
		}
		m.Names = []string{src}
	case n.kind == mapKind && n.get("instance_path") != nil:
		var p instanceMount
		before := len(d.problems)
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		if len(d.problems) > before {
			return
		}
		m.InstancePath = d.mountPath(n, loc, p.InstancePath)
		m.Path = d.mountPath(n, loc, p.Path)
		m.Optional = p.Optional
	case n.kind == mapKind:
		var p volumeMount
		before := len(d.problems)
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		if len(d.problems) > before {
			return
		}
		m.Names, m.nameList = p.Name.names, p.Name.list
		m.Path = d.mountPath(n, loc, p.Path)
	default:
		d.add(n, loc, "model_type", "Input should be source:target or an object")
	}
}

// The objects that a mount is written as.
type (
	instanceMount struct {
		InstancePath string `json:"instance_path" cfg:"req"`
		Path         string `json:"path" cfg:"req"`
		Optional     bool   `json:"optional"`
	}
	volumeMount struct {
		Name nameOrNames `json:"name" cfg:"req"`
		Path string      `json:"path" cfg:"req"`
	}
)

type nameOrNames struct {
	names []string
	list  bool
}

func (v *nameOrNames) decodeNode(d *decoder, n *node, loc []any) {
	items := []*node{n}
	if n.kind == listKind {
		items, v.list = n.list, true
	}
	for i, item := range items {
		s, ok := d.text(item, at(loc, i))
		if ok && s == "" {
			d.reject(item, loc, "empty volume name")
		}
		v.names = append(v.names, s)
	}
	if len(items) == 0 {
		d.reject(n, loc, "empty list of volume names")
	}
}

func (d *decoder) mountPath(n *node, loc []any, p string) string {
	switch {
	case p == "":
		d.reject(n, loc, "empty path")
	case !strings.HasPrefix(p, "/"):
		d.reject(n, loc, "path must be absolute: %s", p)
	case strings.Contains("/"+p+"/", "/../"):
		d.reject(n, loc, ".. are not allowed: %s", p)
	}
	clean := path.Clean(p)
	if strings.HasPrefix(p, "//") && !strings.HasPrefix(p, "///") {
		clean = "/" + clean // two leading slashes are a root of their own in POSIX
	}
	return clean
}

// FileMapping copies LocalPath of the user's machine to Path in the container.
type FileMapping struct {
	LocalPath string `json:"local_path" cfg:"req"`
	Path      string `json:"path" cfg:"req"`
}

// UnmarshalJSON reads every form.
func (f *FileMapping) UnmarshalJSON(data []byte) error { return decodeStored(data, f) }

func (f *FileMapping) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind == mapKind {
		type plain FileMapping
		before := len(d.problems)
		d.structure(n, loc, reflect.ValueOf((*plain)(f)).Elem())
		if len(d.problems) == before {
			f.check(d, n, loc)
		}
		return
	}
	s, ok := d.exactText(n, loc)
	if !ok {
		return
	}
	drive := ""
	if isDrive(s) {
		drive, s = s[:2], s[2:]
	}
	parts := strings.Split(s, ":")
	switch len(parts) {
	case 1:
		f.LocalPath, f.Path = drive+parts[0], drive+parts[0]
	case 2:
		f.LocalPath, f.Path = drive+parts[0], parts[1]
	default:
		d.reject(n, loc, "invalid file path mapping: %s", n.text)
		return
	}
	f.check(d, n, loc)
}

func (f *FileMapping) check(d *decoder, n *node, loc []any) {
	if isDrive(f.Path) || strings.HasPrefix(f.Path, `\\`) || strings.HasPrefix(f.Path, "//") {
		d.reject(n, loc, "path must be a Unix file path: %s", f.Path)
	}
}

func isDrive(s string) bool {
	return len(s) > 2 && isLetter(s[0]) && s[1] == ':' && (s[2] == '\\' || s[2] == '/')
}

// Repo is the Git repository that a run gets.
type Repo struct {
	LocalPath *string `json:"local_path"`
	URL       *string `json:"url"`
	Branch    *string `json:"branch"`
	Hash      *string `json:"hash"`
	Path      string  `json:"path"`
	IfExists  string  `json:"if_exists" cfg:"enum=error|skip"`
}

func (r *Repo) setDefaults() { r.Path, r.IfExists = ".", "error" }

// UnmarshalJSON reads every form.
func (r *Repo) UnmarshalJSON(data []byte) error { return decodeStored(data, r) }

func (r *Repo) decodeNode(d *decoder, n *node, loc []any) {
	r.setDefaults()
	if n.kind == mapKind {
		type plain Repo
		p := (*plain)(r)
		before := len(d.problems)
		d.structure(n, loc, reflect.ValueOf(p).Elem())
		if len(d.problems) > before {
			return
		}
		switch {
		case r.LocalPath != nil && r.URL != nil:
			d.reject(n, loc, "`local_path` and `url` are mutually exclusive")
		case r.LocalPath == nil && r.URL == nil:
			d.reject(n, loc, "Either `local_path` or `url` must be specified")
		}
		r.checkPath(d, n, loc)
		return
	}
	if n.kind != stringKind {
		d.add(n, loc, "string_type", "Input should be a valid string or an object")
		return
	}
	if _, ok := d.text(n, loc); !ok {
		return
	}
	src, dst, err := splitRepo(n.text)
	if err != nil {
		d.reject(n, loc, "%v", err)
		return
	}
	if strings.HasSuffix(n.text, ":") || dst != "" {
		r.Path = dst
	}
	if src == "" {
		d.reject(n, loc, "Either `local_path` or `url` must be specified")
		return
	}
	if isRepoURL(src) {
		r.URL = &src
	} else {
		r.LocalPath = &src
	}
	r.checkPath(d, n, loc)
}

func (r *Repo) checkPath(d *decoder, n *node, loc []any) {
	if strings.HasPrefix(r.Path, "~") && r.Path != "~" && !strings.HasPrefix(r.Path, "~/") {
		d.reject(n, at(loc, "path"), "`~username` syntax is not supported")
	}
}

func isRepoURL(s string) bool {
	return strings.Contains(s, "://") || strings.Contains(s, "@") && strings.Contains(s, ":")
}

// splitRepo takes the shorthand source[:path] apart. A URL keeps its scheme, its user and
// its port.
func splitRepo(s string) (src, dst string, err error) {
	bad := fmt.Errorf("Invalid repo: %s", s)
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		host, tail, _ := strings.Cut(rest, "/")
		last := strings.LastIndex(tail, ":")
		if strings.Count(tail, ":") > 1 {
			return "", "", bad
		}
		if last >= 0 {
			return scheme + "://" + host + "/" + tail[:last], tail[last+1:], nil
		}
		if !strings.Contains(rest, "/") && strings.Contains(host, ":") {
			i := strings.LastIndex(host, ":")
			if !allDigits(host[i+1:]) {
				return scheme + "://" + host[:i], host[i+1:], nil
			}
		}
		return s, "", nil
	}
	parts := strings.Split(s, ":")
	if len(parts) > 1 && strings.Contains(parts[0], "@") || isDrive(s) {
		parts = append([]string{parts[0] + ":" + parts[1]}, parts[2:]...)
	}
	switch len(parts) {
	case 1:
		return parts[0], "", nil
	case 2:
		return parts[0], parts[1], nil
	}
	return "", "", bad
}

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
