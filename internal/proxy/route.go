package proxy

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// prefix is what the paths of services begin with.
const prefix = "/proxy/services/"

// address is the path of a request, taken apart. Its parts but project and run are escaped as
// the client wrote them.
type address struct {
	project, run string
	whole        string // the path
	rest         string // what follows the run's name, from its slash on
	bare         bool   // nothing follows, not even a slash
}

// parse reads an escaped path, false when it names no service.
func parse(path string) (address, bool) {
	names, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return address{}, false
	}
	project, names, ok := strings.Cut(names, "/")
	name, _, more := strings.Cut(names, "/")
	a := address{whole: path, rest: names[len(name):], bare: !more}
	var err1, err2 error
	a.project, err1 = url.PathUnescape(project)
	a.run, err2 = url.PathUnescape(name)
	return a, ok && err1 == nil && err2 == nil && a.project != "" && a.run != "" && plain(a.project) && plain(a.run)
}

// plain says that a name has no character that no name has.
func plain(name string) bool {
	return len(name) <= maxName && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' })
}

// maxName bounds the names that are looked up, in bytes.
const maxName = 200

// upstream is the path to ask the service for. A service with a router is asked for the paths
// that make no harm to its workers.
func (a address) upstream(strip, routed bool) (string, error) {
	path := a.whole
	if strip {
		path = a.rest
	}
	open := path == "/generate" || path == "/chat/completions" || strings.HasPrefix(path, "/v1/") && !climbs(path)
	if routed && !open {
		return "", &refusal{http.StatusForbidden, "Path is not allowed for this service"}
	}
	return path, nil
}

// climbs says that a server may take an escaped path for one that begins otherwise: it has a
// segment that is a dot or two, also where they or slashes are escaped, or escaped twice: a router
// unescapes a path, and so may the worker that it is passed on to.
func climbs(path string) bool {
	for range 2 {
		unescaped, err := url.PathUnescape(path)
		if err != nil {
			break // a percent sign that was escaped
		}
		path = unescaped
	}
	return slices.ContainsFunc(strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '\\' }), func(segment string) bool {
		segment, _, _ = strings.Cut(segment, ";") // some servers leave parameters of segments out
		return segment == "." || segment == ".."
	})
}

// methods are those that are passed on; OPTIONS is answered by the service alone.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch}

func allowed(method string, bare bool) bool {
	return slices.Contains(methods, method) || method == http.MethodOptions && !bare
}
