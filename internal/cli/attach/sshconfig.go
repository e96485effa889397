package attach

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	accounts "os/user"
	"path/filepath"
	"strconv"
	"strings"

	"dstack/internal/cli/clientconfig"
)

// A Host is one block of an SSH configuration file.
type Host struct {
	Name    string
	Options [][2]string // in the order in which they are written
}

// SSHConfig is the generated file that makes `ssh <run>` work. Home is the user's home directory:
// paths beneath it are written with ~, and its .ssh/config gets the Include line.
type SSHConfig struct {
	Path string // usually ~/.dstack/ssh/config
	Home string
	// Login is the home that ssh means by ~, [loginHome] if empty. It takes it from the account, not from HOME.
	Login string
}

// loginHome is the home of the account's database, "" for an account that it does not know.
func loginHome() string {
	u, err := accounts.LookupId(strconv.Itoa(os.Getuid()))
	if err != nil {
		return ""
	}
	return u.HomeDir
}

// Put replaces the blocks of the given hosts and leaves all others as they are.
func (c SSHConfig) Put(hosts ...Host) error {
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return fmt.Errorf("create directory of SSH configuration: %w", err)
	}
	return c.change(func(blocks []block) []block {
		for _, h := range hosts {
			blocks = append(without(blocks, h.Name), c.block(h))
		}
		return blocks
	})
}

// Remove deletes the blocks with these names; missing ones do not matter.
func (c SSHConfig) Remove(names ...string) error {
	return c.change(func(blocks []block) []block {
		for _, n := range names {
			blocks = without(blocks, n)
		}
		return blocks
	})
}

// Include puts an Include of the generated file on the first line of ~/.ssh/config, unless there is one already.
func (c SSHConfig) Include() error {
	dir := filepath.Join(c.Home, ".ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create %s: %w", dir, err)
	}
	path := filepath.Join(dir, "config")
	line := "Include " + quote(c.tilde(c.Path))
	return clientconfig.WithLock(c.Path+".lock", func() error {
		mode := fs.FileMode(0o600)
		data, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("read SSH configuration: %w", err)
		default:
			if info, err := os.Stat(path); err == nil {
				mode = info.Mode().Perm()
			}
		}
		if c.included(string(data)) {
			return nil
		}
		if len(data) > 0 {
			line += "\n"
		}
		return clientconfig.WriteFile(path, append([]byte(line+"\n"), data...), mode)
	})
}

// included reports whether the text includes our file before its first Host or Match block,
// beneath which an Include would only count for that host.
func (c SSHConfig) included(text string) bool {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(strings.Replace(line, "\t", " ", 1)), " ")
		switch strings.ToLower(key) {
		case "include":
			value = strings.Trim(strings.TrimSpace(value), `"`)
			if value == c.Path || value == c.tilde(c.Path) {
				return true
			}
		case "host", "match":
			return false
		}
	}
	return false
}

// A block is a Host line and what follows up to the next one, verbatim. The first one has no name.
type block struct{ name, text string }

func (c SSHConfig) change(f func([]block) []block) error {
	return clientconfig.WithLock(c.Path+".lock", func() error {
		data, err := os.ReadFile(c.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read generated SSH configuration: %w", err)
		}
		var b strings.Builder
		for _, bl := range f(split(string(data))) {
			b.WriteString(bl.text)
		}
		if b.String() == string(data) {
			return nil
		}
		return clientconfig.WriteFile(c.Path, []byte(b.String()), 0o600)
	})
}

func split(text string) []block {
	blocks := []block{{}}
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "Host "); ok {
			blocks = append(blocks, block{name: strings.TrimSpace(name)})
		}
		last := &blocks[len(blocks)-1]
		last.text += line
	}
	return blocks
}

func without(blocks []block, name string) []block {
	out := blocks[:0:0]
	for _, b := range blocks {
		if b.name != name || name == "" {
			out = append(out, b)
		}
	}
	return out
}

func (c SSHConfig) block(h Host) block {
	var b strings.Builder
	fmt.Fprintf(&b, "Host %s\n", h.Name)
	for _, o := range h.Options {
		value := o[1]
		if o[0] == "IdentityFile" {
			value = quote(c.tilde(value))
		}
		fmt.Fprintf(&b, "    %s %s\n", o[0], value)
	}
	return block{h.Name, b.String()}
}

// tilde shortens a path in the home directory, which also keeps it valid where the home is mounted elsewhere.
func (c SSHConfig) tilde(path string) string {
	if c.Home != cmp.Or(c.Login, loginHome()) {
		return path
	}
	if rel, err := filepath.Rel(c.Home, path); err == nil && filepath.IsLocal(rel) {
		return "~/" + filepath.ToSlash(rel)
	}
	return path
}

func quote(path string) string {
	if strings.ContainsAny(path, " \t") {
		return `"` + path + `"`
	}
	return path
}
