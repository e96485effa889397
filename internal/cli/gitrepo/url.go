// Package gitrepo describes the git repository that a run works on: where it is, which commit, what was not pushed,
// and with which credentials it can be cloned. It calls the git program.
//
// Tests make repositories in temporary directories.
package gitrepo

import (
	"crypto/sha256"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"dstack/internal/cli/sshuser"
)

// A URL is the address of a repository, independent of the protocol. Its parts are escaped.
type URL struct {
	raw       string // as it was given
	host      string // in lower case and ASCII, an IPv6 address in brackets
	alias     string // the host as it was given, which the user's SSH configuration may call otherwise
	path      string // begins with a slash
	httpsPort string // empty for the scheme's own
	sshPort   string // as it was given, in the address or in the SSH configuration
	user      string // for SSH, empty for the default
}

var (
	scpForm    = regexp.MustCompile(`^([^@:/]+)@([\w.-]+):(.+)$`)
	schemeForm = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*):(.*)$`)
	plainHost  = regexp.MustCompile(`^[a-z0-9_.-]+$`)
)

// ParseURL understands https://…, ssh://… and user@host:path. Hosts that are reached by SSH are looked up in the SSH
// configuration beneath the user's home directory.
func ParseURL(s, home string) (URL, error) {
	address := s
	if m := scpForm.FindStringSubmatch(s); m != nil {
		address = "ssh://" + m[1] + "@" + m[2] + "/" + m[3]
	}
	m := schemeForm.FindStringSubmatch(strings.Trim(address, " \t\r\n"))
	if m == nil {
		return URL{}, unparsable(s)
	}
	u := URL{raw: s}
	ok := false
	switch scheme := strings.ToLower(m[1]); scheme {
	case "https":
		ok = u.parseHTTPS(m[2])
	case "ssh":
		ok = u.parseSSH(m[2], home)
	default:
		return URL{}, fmt.Errorf("Unsupported URL scheme %s: use https or ssh", scheme)
	}
	if !ok {
		return URL{}, unparsable(s)
	}
	return u, nil
}

func unparsable(s string) error {
	return fmt.Errorf("Could not parse git URL %s: write https://host/path, ssh://user@host/path or user@host:path", s)
}

// parseHTTPS reads what follows the scheme as browsers do. A user is left out.
func (u *URL) parseHTTPS(rest string) bool {
	_, host, port, path, ok := split(strings.TrimLeft(strings.ReplaceAll(rest, `\`, "/"), "/"))
	if ok && !strings.HasPrefix(host, "[") {
		ascii, err := idna.Lookup.ToASCII(host)
		host, ok = ascii, err == nil
	}
	if port == "443" {
		port = ""
	}
	u.host, u.alias, u.httpsPort, u.path = host, host, port, normalPath(path)
	return ok && validHost(host)
}

func (u *URL) parseSSH(rest, home string) bool {
	rest, slashes := strings.CutPrefix(rest, "//")
	user, host, port, path, ok := split(rest)
	host = strings.ToLower(host)
	if !ok || !slashes || !validHost(host) {
		return false
	}
	own := sshuser.Lookup(home, host)
	u.host, u.alias, u.path = host, host, normalPath(path)
	if own.HostName != "" {
		u.host = strings.ToLower(own.HostName)
	}
	u.sshPort, u.user = port, escape(user, " \"#<>?`{}/:;=@[\\]^|")
	if port == "" {
		u.sshPort = own.Port
	}
	if user == "" {
		u.user = own.User
	}
	return true
}

// split takes apart what follows the slashes: user@host:port/path.
func split(s string) (user, host, port, path string, ok bool) {
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		s = s[:i]
	}
	authority, path, _ := strings.Cut(s, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, authority = authority[:i], authority[i+1:]
		user, _, _ = strings.Cut(user, ":") // a password is not for us
	}
	host = authority
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		host, port = authority[:i], authority[i+1:]
	}
	if _, err := strconv.ParseUint(port, 10, 16); port != "" && err != nil {
		return "", "", "", "", false
	}
	return user, host, port, "/" + path, true
}

func validHost(host string) bool {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return err == nil && addr.Is6() && addr.Zone() == "" && strings.HasSuffix(host, "]")
	}
	return plainHost.MatchString(host)
}

// normalPath resolves dots and escapes what must be; what is escaped already stays so.
func normalPath(path string) string {
	var parts []string
	elements := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, e := range elements {
		last := i == len(elements)-1
		switch e {
		case ".", "..":
			if e == ".." && len(parts) > 0 {
				parts = parts[:len(parts)-1]
			}
			if last {
				parts = append(parts, "")
			}
		default:
			parts = append(parts, escape(e, " \"#<>?`{}"))
		}
	}
	return "/" + strings.Join(parts, "/")
}

// escape writes what is not ASCII, control characters and those of special with percent signs.
func escape(s, special string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || strings.IndexByte(special, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func (u URL) String() string { return u.raw }

// place is the path without what does not tell repositories apart.
func (u URL) place() string { return strings.TrimSuffix(strings.TrimRight(u.path, "/"), ".git") }

// Name is the last element of the path.
func (u URL) Name() string {
	place := u.place()
	if name := place[strings.LastIndexByte(place, '/')+1:]; name != "" {
		return name
	}
	return "unknown"
}

// ID identifies the repository on the server, whatever its port; all clients must compute the same one.
// The digits come from the hash read as a little-endian number in base 36.
func (u URL) ID() string {
	sum := sha256.Sum256([]byte(u.host + u.place()))
	slices.Reverse(sum[:])
	digits := new(big.Int).SetBytes(sum[:]).Text(36)
	digits = strings.Repeat("0", max(0, 32-len(digits))) + digits
	digits = digits[len(digits)-32:]
	return u.Name() + "-" + digits[:8]
}

// HTTPS is the address for anonymous access; with a token, for access with it.
func (u URL) HTTPS(token string) string {
	user := ""
	if token != "" {
		user = url.UserPassword("anything", token).String() + "@"
	}
	return "https://" + user + u.host + portSuffix(u.httpsPort) + u.path
}

// SSH is the address for access with a key, where own is what the user's SSH configuration says about the host.
func (u URL) SSH(own sshuser.Options) string {
	user, port := "git", u.sshPort
	switch {
	case u.user != "":
		user = u.user
	case own.User != "":
		user = url.User(own.User).String()
	}
	if port == "" {
		port = own.Port
	}
	return "ssh://" + user + "@" + u.host + portSuffix(port) + u.path
}

func portSuffix(port string) string {
	if port == "" {
		return ""
	}
	return ":" + port
}
