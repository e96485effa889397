package server

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWarnings(t *testing.T) {
	for name, tt := range map[string]struct{ environ, want []string }{
		"nothing":          {[]string{"PATH=/bin", "DSTACK_PROJECT=main", "DSTACK_TOKEN=x"}, nil},
		"what is read":     {[]string{"DSTACK_SERVER_DIR=/srv", "DSTACK_SERVER_JOB_NETWORK_MODE=1", "DSTACK_DB_POOL_SIZE=3"}, nil},
		"what is not":      {[]string{"DSTACK_SENTRY_DSN=https://secret@example.com"}, []string{"DSTACK_SENTRY_DSN is ignored: this server reports to no Sentry; problems are in its log"}},
		"a slip, empty":    {[]string{"DSTACK_SERVER_DIRR="}, []string{"DSTACK_SERVER_DIRR is ignored: there is no such setting"}},
		"an endpoint":      {[]string{"DSTACK_ENDPOINT_LAMBDA=http://x", "DSTACK_ENDPOINT_AWS=http://x", "DSTACK_ENDPOINT_GCS=http://x"}, nil},
		"one that is none": {[]string{"DSTACK_ENDPOINT_LAMBDAA=http://x"}, []string{"DSTACK_ENDPOINT_LAMBDAA is ignored: there is no such provider"}},
		"in order": {[]string{"DSTACK_SERVER_PROT=1", "DSTACK_PLUGIN_SERVICE_URI=x"},
			[]string{"DSTACK_PLUGIN_SERVICE_URI is ignored: there are no plugins", "DSTACK_SERVER_PROT is ignored: there is no such setting"}},
		"no proxy to enforce": {[]string{"DSTACK_SERVER_SSHPROXY_ENFORCED=1", "DSTACK_SSHPROXY_API_TOKEN=x"},
			[]string{"DSTACK_SERVER_SSHPROXY_ENFORCED is ignored: it needs DSTACK_SERVER_SSHPROXY_ADDRESS and DSTACK_SSHPROXY_API_TOKEN"}},
		"a proxy": {[]string{"DSTACK_SERVER_SSHPROXY_ENFORCED=1", "DSTACK_SSHPROXY_API_TOKEN=x", "DSTACK_SERVER_SSHPROXY_ADDRESS=h"}, nil},
	} {
		if diff := cmp.Diff(tt.want, Warnings(tt.environ)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestVariables compares the settings that are known with those that are read and those that the
// page for operators has.
func TestVariables(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/server.md")
	if err != nil {
		t.Fatal(err)
	}
	var settings []string
	for _, name := range serverVariables {
		settings = append(settings, serverPrefix+name)
	}
	asked := func(name string) string {
		if strings.HasPrefix(name, serverPrefix) && !slices.Contains(settings, name) {
			t.Errorf("%s is read and unknown", name)
		}
		if strings.HasPrefix(name, "DSTACK_") && !slices.Contains([]string{varOldBucket, varOldRegion}, name) && !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("%s is read and not on the page", name)
		}
		return ""
	}
	if _, err := Settings(asked, "/home/me"); err != nil {
		t.Fatal(err)
	}
	onPage := regexp.MustCompile("`("+serverPrefix+"[A-Z0-9_]+)`").FindAllStringSubmatch(string(page), -1)
	for _, m := range onPage {
		if !slices.Contains(settings, m[1]) {
			t.Errorf("%s is on the page and unknown", m[1])
		}
	}
	for _, name := range settings {
		if name != varOldBucket && name != varOldRegion && !slices.ContainsFunc(onPage, func(m []string) bool { return m[1] == name }) {
			t.Errorf("%s is not on the page", name)
		}
	}
}
