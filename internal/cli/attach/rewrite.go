package attach

import (
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Links replaces addresses in log output by those under which they are reached from here.
type Links struct {
	re    *regexp.Regexp
	ports map[int]Link // by port of the job
}

// A Link says where one port of the job is reached.
type Link struct {
	Local int               // forwarded local port
	Query map[string]string // added to each address
	// Service is the published address, for the port of a service; nil otherwise.
	Service *url.URL
}

// newLinks returns the replacements for a job that runs at hostname and, to itself, at localhost.
func newLinks(hostname string, ports map[int]Link) *Links {
	hosts := `localhost|0\.0\.0\.0|127\.0\.0\.1`
	if hostname != "" {
		hosts += "|" + regexp.QuoteMeta(hostname)
	}
	return &Links{re: regexp.MustCompile(`http://(?:` + hosts + `):(\d{1,5})\b(/[^\s"'<>\x1b]*|\?[^\s"'<>\x1b]*)?`), ports: ports}
}

// Rewrite returns a piece of the log with known addresses replaced and everything else as it is.
func (l *Links) Rewrite(b []byte) []byte {
	if l == nil || len(l.ports) == 0 {
		return b
	}
	return l.re.ReplaceAllFunc(b, func(m []byte) []byte {
		u, err := url.Parse(string(m))
		if err != nil {
			return m
		}
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			return m
		}
		link, ok := l.ports[port]
		if !ok {
			return m
		}
		return []byte(link.rewrite(u))
	})
}

func (l Link) rewrite(u *url.URL) string {
	if l.Service != nil {
		u.Scheme, u.Host = l.Service.Scheme, l.Service.Host
		base := strings.TrimSuffix(l.Service.Path, "/")
		if !strings.HasPrefix(u.Path, base+"/") {
			u.Path = base + "/" + strings.TrimPrefix(u.Path, "/")
		}
	} else {
		u.Scheme, u.Host = "http", "127.0.0.1"
		if l.Local != 80 {
			u.Host = net.JoinHostPort(u.Host, strconv.Itoa(l.Local))
		}
	}
	if len(l.Query) > 0 {
		q := u.Query()
		for k, v := range l.Query {
			q.Set(k, v)
		}
		u.RawQuery = q.Encode()
	}
	return u.String()
}
