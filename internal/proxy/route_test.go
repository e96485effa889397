package proxy

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for path, want := range map[string]*address{
		"/proxy/services/main/svc":            {project: "main", run: "svc", whole: "/proxy/services/main/svc", bare: true},
		"/proxy/services/main/svc/":           {project: "main", run: "svc", whole: "/proxy/services/main/svc/", rest: "/"},
		"/proxy/services/main/svc/a//b/../c":  {project: "main", run: "svc", whole: "/proxy/services/main/svc/a//b/../c", rest: "/a//b/../c"},
		"/proxy/services/main/svc/a%2Fb%20c":  {project: "main", run: "svc", whole: "/proxy/services/main/svc/a%2Fb%20c", rest: "/a%2Fb%20c"},
		"/proxy/services/my%20team/svc/":      {project: "my team", run: "svc", whole: "/proxy/services/my%20team/svc/", rest: "/"},
		"/proxy/services/main/":               nil,
		"/proxy/services/main":                nil,
		"/proxy/services/":                    nil,
		"/proxy/services//svc/":               nil,
		"/proxy/services/main/s%00c/":         nil,
		"/proxy/services/main/s%zzc/":         nil,
		"/proxy/models/main/chat/completions": nil,
	} {
		got, ok := parse(path)
		if ok != (want != nil) {
			t.Errorf("parse(%q) = %v, %v", path, got, ok)
			continue
		}
		if want == nil {
			continue
		}
		if diff := cmp.Diff(*want, got, cmp.AllowUnexported(address{})); diff != "" {
			t.Errorf("parse(%q) (-want +got):\n%s", path, diff)
		}
	}
}

func TestUpstream(t *testing.T) {
	for name, tt := range map[string]struct {
		path          string
		strip, routed bool
		want          string // "" for none
	}{
		"stripped":              {"/proxy/services/p/s/a/b", true, false, "/a/b"},
		"kept":                  {"/proxy/services/p/s/a/b", false, false, "/proxy/services/p/s/a/b"},
		"router: completions":   {"/proxy/services/p/s/chat/completions", true, true, "/chat/completions"},
		"router: generate":      {"/proxy/services/p/s/generate", true, true, "/generate"},
		"router: below v1":      {"/proxy/services/p/s/v1/models", true, true, "/v1/models"},
		"router: v1 itself":     {"/proxy/services/p/s/v1", true, true, ""},
		"router: its workers":   {"/proxy/services/p/s/workers", true, true, ""},
		"router: dots in names": {"/proxy/services/p/s/v1/a..b/.c/...", true, true, "/v1/a..b/.c/..."},
		"router: up":            {"/proxy/services/p/s/v1/../workers", true, true, ""},
		"router: up, slashes":   {"/proxy/services/p/s/v1//../workers", true, true, ""},
		"router: up, escaped":   {"/proxy/services/p/s/v1/%2e%2E/workers", true, true, ""},
		"router: up, one dot":   {"/proxy/services/p/s/v1/.%2e/workers", true, true, ""},
		"router: up, slash":     {"/proxy/services/p/s/v1/..%2fworkers", true, true, ""},
		"router: up, back":      {"/proxy/services/p/s/v1/..%5Cworkers", true, true, ""},
		"router: up, twice":     {"/proxy/services/p/s/v1/%252e%252e/workers", true, true, ""},
		"router: up, parameter": {"/proxy/services/p/s/v1/..;a=b/workers", true, true, ""},
		"router: up, last":      {"/proxy/services/p/s/v1/..", true, true, ""},
		"router: stays":         {"/proxy/services/p/s/v1/./models", true, true, ""},
		"router: percent":       {"/proxy/services/p/s/v1/100%25", true, true, "/v1/100%25"},
		"no router: up":         {"/proxy/services/p/s/v1/../workers", true, false, "/v1/../workers"},
		"router: a longer one":  {"/proxy/services/p/s/generate_stream", true, true, ""},
	} {
		a, ok := parse(tt.path)
		if !ok {
			t.Fatalf("%s: %s is no path of a service", name, tt.path)
		}
		got, err := a.upstream(tt.strip, tt.routed)
		if no, refused := errors.AsType[*refusal](err); got != tt.want || refused != (tt.want == "") || refused && no.status != 403 {
			t.Errorf("%s: upstream = %q, %v, want %q", name, got, err, tt.want)
		}
	}
}

func TestOrder(t *testing.T) {
	for name, tt := range map[string]struct {
		list []replica
		turn uint32
		want []string
	}{
		"in turn: first":    {[]replica{{id: "a"}, {id: "b"}, {id: "c"}}, 0, []string{"a", "b", "c"}},
		"in turn: second":   {[]replica{{id: "a"}, {id: "b"}, {id: "c"}}, 1, []string{"b", "c", "a"}},
		"in turn: round":    {[]replica{{id: "a"}, {id: "b"}, {id: "c"}}, 3, []string{"a", "b", "c"}},
		"the least busy":    {[]replica{{id: "a", busy: 2}, {id: "b"}, {id: "c", busy: 1}}, 0, []string{"b", "c", "a"}},
		"resting last":      {[]replica{{id: "a", resting: true}, {id: "b", busy: 9}}, 0, []string{"b", "a"}},
		"all rest":          {[]replica{{id: "a", resting: true}, {id: "b", resting: true}}, 1, []string{"b", "a"}},
		"tried not again":   {[]replica{{id: "a", tried: true}, {id: "b"}}, 0, []string{"b"}},
		"all tried":         {[]replica{{id: "a", tried: true}}, 5, nil},
		"the largest turns": {[]replica{{id: "a"}, {id: "b"}}, 1<<32 - 1, []string{"b", "a"}},
	} {
		if diff := cmp.Diff(tt.want, order(tt.list, tt.turn)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
