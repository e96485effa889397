package config

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// onlyTypes leaves nothing but the types of backends in a server's configuration.
func onlyTypes(v any) any {
	projects, _ := v.(map[string]any)["projects"].([]any)
	for _, p := range projects {
		backends, _ := p.(map[string]any)["backends"].([]any)
		for i, b := range backends {
			backends[i] = b.(map[string]any)["type"]
		}
	}
	return v
}

func TestServerFile(t *testing.T) {
	goldenDir(t, "server-config/valid", func(t *testing.T, name string, yml, want []byte) {
		f, err := ParseServerFile(name, yml)
		if err != nil {
			t.Fatalf("refused: %v\n%s", err, yml)
		}
		var w struct{ Config any }
		if err := json.Unmarshal(want, &w); err != nil {
			t.Fatal(err)
		}
		compareJSON(t, onlyTypes(anyOf(t, mustJSON(t, f))), mustJSON(t, onlyTypes(w.Config)))
	})
	goldenDir(t, "server-config/invalid", func(t *testing.T, name string, yml, want []byte) {
		f, err := ParseServerFile(name, yml)
		var w struct{ Errors []struct{ Loc []any } }
		if err := json.Unmarshal(want, &w); err != nil {
			t.Fatal(err)
		}
		inBackends := len(w.Errors) > 0
		for _, e := range w.Errors {
			inBackends = inBackends && len(e.Loc) > 4 && e.Loc[2] == "backends"
		}
		if inBackends {
			if err != nil {
				t.Errorf("refused, although a backend checks its own fields: %v", err)
			}
			return
		}
		if err == nil {
			t.Fatalf("accepted:\n%s\nas %s\nthe original says %s", yml, mustJSON(t, f), want)
		}
		sameField(t, err, yml, want)
	})
}

func TestServerFileWarnings(t *testing.T) {
	f, err := ParseServerFile("f", []byte("projects:\n- name: a\n  backends: [{type: local}, {type: aws}, {type: aws}]\n- name: a\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := "f:3:42: projects[0].backends[2]: the backend aws is there more than once: the last one counts\n" +
		"f:4:3: projects[1]: the project a is there more than once: the last one counts"
	if got := (&Errors{f.Warnings}).Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestWithoutCredentials(t *testing.T) {
	f, err := ParseServerFile("f", []byte("projects:\n- name: a\n  backends: [{type: lambda, creds: {type: api_key, api_key: hunter2}}, {type: local}]\n- name: b\n"+
		"encryption: {keys: [{type: aes, name: k, secret: "+strings.Repeat("QUJD", 10)+"QUI=}, {type: identity}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	before := string(mustJSON(t, f))
	want := `{"projects":[{"name":"a","backends":[{"type":"lambda"},{"type":"local"}]},{"name":"b","backends":null}],` +
		`"encryption":{"keys":[{"type":"aes","name":"k","secret":""},{"type":"identity"}]},"default_permissions":null,"plugins":null}`
	if diff := cmp.Diff(want, string(mustJSON(t, f.WithoutCredentials()))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, string(mustJSON(t, f))); diff != "" {
		t.Errorf("the file itself changed (-before +after):\n%s", diff)
	}
}
