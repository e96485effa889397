package install

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
)

func TestEnv(t *testing.T) {
	home := t.TempDir()
	in := `{"A":"1","EMPTY":"","ODD":"a \"b\" \\c $HOME ` + "`id`" + ` # ; 'x'","LINES":"-----BEGIN-----\nx=\"\n-----END-----\n","UTF8":"grün"}`
	env, err := environment(options{home: home, newEnv: true}, strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	if env["LINES"] != "-----BEGIN-----\nx=\"\n-----END-----\n" {
		t.Errorf("%q", env["LINES"])
	}
	if err := os.WriteFile(filepath.Join(home, "agent.env"), []byte(formatEnv(env)), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := environment(options{home: home}, strings.NewReader("not read"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(env, kept); diff != "" {
		t.Errorf("an upgrade changes the variables:\n%s", diff)
	}
	if got := formatEnv(map[string]string{"B": `"$x\`, "A": "1"}); got != "A=\"1\"\nB=\"\\\"\\$x\\\\\"\n" {
		t.Errorf("%q", got)
	}
	if env, err := environment(options{home: t.TempDir()}, nil); err != nil || len(env) != 0 {
		t.Errorf("the first installation: %v %v", env, err)
	}
	for _, bad := range []string{"", "[]", `{"":"x"}`, `{"A=B":"x"}`, `{"A B":"x"}`, `{"A":7}`} {
		if _, err := environment(options{home: home, newEnv: true}, strings.NewReader(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

// An agent that is there is started again, and keeps its variables, however full the disk is.
func TestKeep(t *testing.T) {
	o := options{home: t.TempDir(), newEnv: true}
	env := map[string]string{"A": "1"}
	var refused *agentapi.Error
	if err := o.keep(env, minDisk-1); !errors.As(err, &refused) || refused.Code != "disk_full" {
		t.Errorf("the first installation on a full disk: %v", err)
	}
	if err := o.keep(env, minDisk); err != nil {
		t.Fatal(err)
	}
	o.newEnv = false
	if err := o.keep(map[string]string{"A": "2"}, 0); err != nil {
		t.Errorf("an agent with jobs on a full disk: %v", err)
	}
	if kept, err := environment(o, nil); err != nil || cmp.Diff(env, kept) != "" {
		t.Errorf("the variables are %v now (%v)", kept, err)
	}
}

func FuzzEnv(f *testing.F) {
	f.Add("a", "A=\"x\\\"\"\n")
	f.Fuzz(func(t *testing.T, value, file string) {
		_, _ = parseEnv(file) // damaged or not, it returns
		back, err := parseEnv(formatEnv(map[string]string{"K": value, "L": "x"}))
		if err != nil || back["K"] != value || back["L"] != "x" || len(back) != 2 {
			t.Fatalf("%q became %q (%v)", value, back, err)
		}
	})
}
