// Package sshuser reads what the user's own ~/.ssh/config says about a host.
package sshuser

import (
	"os"
	"path/filepath"
	"strings"
)

const (
	maxFile  = 1 << 20 // bytes
	maxDepth = 8       // of Include
)

// Options are the settings of a host; empty ones are not set.
type Options struct {
	HostName, User, Port string
	IdentityFile         string // the first one, with ~ expanded
}

// Lookup returns the settings for host in the configuration beneath the home directory; first mention wins, as in ssh.
// Match blocks are skipped. Files that cannot be read set nothing.
func Lookup(home, host string) Options {
	p := parser{home: home, host: host}
	p.file(filepath.Join(home, ".ssh", "config"), 0)
	return p.opts
}

type parser struct {
	home, host string
	opts       Options
}

func (p *parser) file(path string, depth int) {
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxFile || depth > maxDepth {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	applies := true
	for line := range strings.Lines(string(data)) {
		key, value := keyword(line)
		switch key {
		case "host":
			applies = matches(strings.Fields(value), p.host)
		case "match":
			applies = false
		case "include":
			if applies {
				p.include(value, depth)
			}
		default:
			if applies {
				p.set(key, value)
			}
		}
	}
}

func (p *parser) include(value string, depth int) {
	for pattern := range strings.FieldsSeq(value) {
		pattern = p.expand(strings.Trim(pattern, `"`))
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(p.home, ".ssh", pattern)
		}
		files, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		for _, f := range files {
			p.file(f, depth+1)
		}
	}
}

func (p *parser) set(key, value string) {
	value = strings.Trim(value, `"`)
	target := map[string]*string{
		"hostname": &p.opts.HostName, "user": &p.opts.User, "port": &p.opts.Port, "identityfile": &p.opts.IdentityFile,
	}[key]
	if target == nil || *target != "" {
		return
	}
	if key == "identityfile" {
		value = p.expand(value)
	}
	*target = value
}

func (p *parser) expand(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(p.home, rest)
	}
	return path
}

// keyword splits a line at the first space or equals sign.
func keyword(line string) (key, value string) {
	line = strings.TrimSpace(line)
	i := strings.IndexAny(line, " \t=")
	if i < 0 || line[0] == '#' {
		return "", ""
	}
	return strings.ToLower(line[:i]), strings.TrimSpace(strings.TrimLeft(line[i:], " \t="))
}

func matches(patterns []string, host string) bool {
	hit := false
	for _, p := range patterns {
		p, negated := strings.CutPrefix(p, "!")
		if ok, err := filepath.Match(p, host); err == nil && ok {
			if negated {
				return false
			}
			hit = true
		}
	}
	return hit
}
