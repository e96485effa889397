// Package gitrepo describes the git repository that a run works on: where it is, which commit, what was not pushed,
// and with which credentials it can be cloned. It calls the git program.
//
// Tests make repositories in temporary directories.
package gitrepo

import (
	"crypto/sha256"
	"fmt"
	"math/big"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A URL is the address of a repository, independent of the protocol.
type URL struct {
	Host string // lower case, with the port if it is not the scheme's own
	Path string // without leading and trailing slashes and without .git
	raw  string // as it was given
	ssh  bool
	user string
	port string
	dot  bool // the path was written with .git
}

var scpForm = regexp.MustCompile(`^([\w.-]+)@([\w.-]+):([^/].*|/.+)$`)

// ParseURL understands https://…, ssh://… and user@host:path.
func ParseURL(s string) (URL, error) {
	if m := scpForm.FindStringSubmatch(s); m != nil && !strings.Contains(s, "://") {
		return newURL(s, true, m[1], strings.ToLower(m[2]), "", m[3])
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return URL{}, fmt.Errorf("could not parse git URL %s: write https://host/path, ssh://user@host/path or user@host:path", s)
	}
	switch u.Scheme {
	case "https":
		port := u.Port()
		if port == "443" {
			port = ""
		}
		return newURL(s, false, "", strings.ToLower(u.Hostname()), port, u.Path)
	case "ssh":
		port := u.Port()
		if port == "22" {
			port = ""
		}
		return newURL(s, true, u.User.Username(), strings.ToLower(u.Hostname()), port, u.Path)
	}
	return URL{}, fmt.Errorf("unsupported URL scheme %s: use https or ssh", u.Scheme)
}

func newURL(raw string, ssh bool, user, host, port, path string) (URL, error) {
	clean := strings.Trim(path, "/")
	short := strings.TrimSuffix(clean, ".git")
	if host == "" || short == "" {
		return URL{}, fmt.Errorf("could not parse git URL %s: host or path is missing", raw)
	}
	u := URL{Host: host, Path: short, raw: raw, ssh: ssh, user: user, port: port, dot: short != clean}
	if !ssh && port != "" {
		u.Host += ":" + port
	}
	return u, nil
}

func (u URL) String() string { return u.raw }

// Name is the last element of the path.
func (u URL) Name() string {
	if name := u.Path[strings.LastIndex(u.Path, "/")+1:]; name != "" {
		return name
	}
	return "unknown"
}

// ID identifies the repository on the server, whatever its port; all clients must compute the same one.
// The digits come from the hash read as a little-endian number in base 36.
func (u URL) ID() string {
	host := u.Host
	if u.port != "" {
		host = strings.TrimSuffix(host, ":"+u.port)
	}
	sum := sha256.Sum256([]byte(host + "/" + u.Path))
	slices.Reverse(sum[:])
	digits := new(big.Int).SetBytes(sum[:]).Text(36)
	digits = strings.Repeat("0", max(0, 32-len(digits))) + digits
	digits = digits[len(digits)-32:]
	return u.Name() + "-" + digits[:8]
}

func (u URL) path() string {
	if u.dot {
		return u.Path + ".git"
	}
	return u.Path
}

// HTTPS is the address for anonymous access; with a token, for access with it.
func (u URL) HTTPS(token string) string {
	v := url.URL{Scheme: "https", Host: u.Host, Path: "/" + u.path()}
	if token != "" {
		v.User = url.UserPassword("anything", token)
	}
	return v.String()
}

// SSH is the address for access with a key.
func (u URL) SSH(user, host, port string) string {
	if user == "" {
		user = "git"
	}
	if host == "" {
		host, _, _ = strings.Cut(u.Host, ":")
	}
	if port != "" && port != "22" {
		host += ":" + port
	}
	return (&url.URL{Scheme: "ssh", User: url.User(user), Host: host, Path: "/" + u.path()}).String()
}
