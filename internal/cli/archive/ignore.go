package archive

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// ignoreFiles are consulted in this order; the first that says something about a file decides.
var ignoreFiles = [...]string{".dstackignore", ".ignore", ".gitignore"}

// maxIgnoreFile bounds one file of rules, in bytes.
const maxIgnoreFile = 1 << 20

// Ignore tells which files to leave out, by the rules of .gitignore files, at every level from the file system's root
// down, whether or not there is a git repository. It reads each file of rules once and is not safe for concurrent use.
type Ignore struct {
	global []rule
	dirs   map[string]*[len(ignoreFiles)][]rule
}

// NewIgnore returns an Ignore that also follows the rules of the global file at path, if there is one.
func NewIgnore(global string) *Ignore {
	ig := &Ignore{dirs: map[string]*[len(ignoreFiles)][]rule{}}
	if global != "" {
		ig.global = readRules(global)
	}
	return ig
}

// A rule is one line of a .gitignore file.
type rule struct {
	re      *regexp.Regexp
	keep    bool // the line began with !
	dirOnly bool
}

// Match reports whether file, an absolute path, is to be left out. Parents are not looked at:
// the caller does not descend into directories that match.
func (ig *Ignore) Match(file string, dir bool) bool {
	for kind := range ignoreFiles {
		for d := filepath.Dir(file); ; d = filepath.Dir(d) {
			if hit, skip := match(ig.rules(d)[kind], d, file, dir); hit {
				return skip
			}
			if d == filepath.Dir(d) {
				break
			}
		}
	}
	_, skip := match(ig.global, filepath.Dir(file), file, dir)
	return skip
}

func (ig *Ignore) rules(dir string) *[len(ignoreFiles)][]rule {
	if r, ok := ig.dirs[dir]; ok {
		return r
	}
	r := new([len(ignoreFiles)][]rule)
	for i, name := range ignoreFiles {
		r[i] = readRules(filepath.Join(dir, name))
	}
	ig.dirs[dir] = r
	return r
}

// match finds the last rule about file.
func match(rules []rule, base, file string, dir bool) (hit, skip bool) {
	if len(rules) == 0 {
		return false, false
	}
	rel, err := filepath.Rel(base, file)
	if err != nil {
		return false, false
	}
	rel = filepath.ToSlash(rel)
	for i := len(rules) - 1; i >= 0; i-- {
		if r := rules[i]; (dir || !r.dirOnly) && r.re.MatchString(rel) {
			return true, !r.keep
		}
	}
	return false, false
}

// readRules reads a file of rules; one that cannot be read has none.
func readRules(path string) []rule {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxIgnoreFile {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var rules []rule
	for line := range strings.Lines(string(data)) {
		if r, ok := parseRule(strings.TrimRight(line, "\r\n")); ok {
			rules = append(rules, r)
		}
	}
	return rules
}

func parseRule(line string) (rule, bool) {
	for strings.HasSuffix(line, " ") && !strings.HasSuffix(line, `\ `) {
		line = line[:len(line)-1]
	}
	if line == "" || line[0] == '#' {
		return rule{}, false
	}
	var r rule
	if line[0] == '!' {
		r.keep = true
		line = line[1:]
	}
	if strings.HasSuffix(line, "/") {
		r.dirOnly = true
		line = strings.TrimSuffix(line, "/")
	}
	anchored := strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	if line == "" {
		return rule{}, false
	}
	expr := globExpr(line)
	if !anchored {
		expr = "(?:.*/)?" + expr
	}
	re, err := regexp.Compile("(?s)^" + expr + "$")
	if err != nil { // a broken character class matches nothing, as in git
		return rule{}, false
	}
	r.re = re
	return r, true
}

// globExpr translates a gitignore pattern.
func globExpr(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case strings.HasPrefix(p[i:], "**/") && (i == 0 || p[i-1] == '/'):
			b.WriteString("(?:.*/)?")
			i += 2
		case p[i:] == "**" && (i == 0 || p[i-1] == '/'):
			b.WriteString(".+")
			i++
		case c == '*':
			b.WriteString("[^/]*")
		case c == '?':
			b.WriteString("[^/]")
		case c == '[':
			n := classEnd(p[i:])
			if n == 0 {
				b.WriteString(`\[`)
				continue
			}
			class := p[i+1 : i+n]
			if class[0] == '!' {
				class = "^" + class[1:]
			}
			b.WriteString("[" + strings.ReplaceAll(class, `[`, `\[`) + "]")
			i += n
		case c == '\\' && i+1 < len(p):
			i++
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
		}
	}
	return b.String()
}

// classEnd returns the index of the bracket that closes the class at the start of p, 0 if there is none.
func classEnd(p string) int {
	i := 1
	if i < len(p) && (p[i] == '!' || p[i] == '^') {
		i++
	}
	if i < len(p) && p[i] == ']' {
		i++
	}
	for ; i < len(p); i++ {
		if p[i] == ']' {
			return i
		}
	}
	return 0
}
