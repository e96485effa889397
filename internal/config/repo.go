package config

import (
	"fmt"
	"reflect"
	"strings"
)

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
