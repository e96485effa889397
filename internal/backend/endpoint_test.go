package backend_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"dstack/internal/backend"
)

func TestEndpoint(t *testing.T) {
	acme := backend.Type{Name: "acme", EndpointEnv: "ACME_URL"}
	for name, tt := range map[string]struct {
		typ  backend.Type
		env  map[string]string
		want string
		bad  string // the variable that the error names
	}{
		"none":              {acme, nil, "", ""},
		"ours":              {acme, map[string]string{"DSTACK_ENDPOINT_ACME": "http://127.0.0.1:80/v1/"}, "http://127.0.0.1:80/v1", ""},
		"theirs":            {acme, map[string]string{"ACME_URL": "https://acme.example"}, "https://acme.example", ""},
		"ours goes first":   {acme, map[string]string{"ACME_URL": "http://a", "DSTACK_ENDPOINT_ACME": "http://b"}, "http://b", ""},
		"another backend's": {acme, map[string]string{"DSTACK_ENDPOINT_OTHER": "http://a"}, "", ""},
		"it has no own":     {backend.Type{Name: "acme"}, map[string]string{"": "http://a"}, "", ""},
		"no scheme":         {acme, map[string]string{"DSTACK_ENDPOINT_ACME": "acme.example"}, "", "DSTACK_ENDPOINT_ACME"},
		"not HTTP":          {acme, map[string]string{"DSTACK_ENDPOINT_ACME": "file:///etc/passwd"}, "", "DSTACK_ENDPOINT_ACME"},
		"no host":           {acme, map[string]string{"DSTACK_ENDPOINT_ACME": "http://"}, "", "DSTACK_ENDPOINT_ACME"},
		"a query":           {acme, map[string]string{"ACME_URL": "http://a?x=1"}, "", "ACME_URL"},
		"credentials":       {acme, map[string]string{"ACME_URL": "http://u:p@a"}, "", "ACME_URL"},
		"not a URL":         {acme, map[string]string{"ACME_URL": "http://a b\x00"}, "", "ACME_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.typ.Endpoint(func(k string) string { return tt.env[k] })
			if got != tt.want || (err == nil) != (tt.bad == "") {
				t.Errorf("Endpoint = %q, %v, want %q", got, err, tt.want)
			}
			if err != nil && !strings.HasPrefix(err.Error(), tt.bad+" ") {
				t.Errorf("the error %q does not begin with %s", err, tt.bad)
			}
		})
	}
}

func TestSecret(t *testing.T) {
	s := struct{ Key backend.Secret }{"hush"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", s.Key)
	for _, shown := range []string{fmt.Sprint(s), fmt.Sprintf("%+v %#v %s %q", s, s, s.Key, s.Key), log.String()} {
		if strings.Contains(shown, "hush") {
			t.Errorf("a secret shows: %s", shown)
		}
	}
	if stored, err := json.Marshal(s); err != nil || string(stored) != `{"Key":"hush"}` || s.Key.Reveal() != "hush" {
		t.Errorf("stored as %s, %v", stored, err)
	}
}
