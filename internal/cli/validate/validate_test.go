package validate

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// run checks a file of dir with the options, and returns what it printed.
func run(dir, stdin string, o Options) (out, errOut string, err error) {
	var b, e bytes.Buffer
	o.Program = &program.Program{IO: term.New(strings.NewReader(stdin), &b, &e), Home: dir, Getwd: func() (string, error) { return dir, nil }}
	err = Run(o)
	return b.String(), e.String(), err
}

func TestValid(t *testing.T) {
	dir := t.TempDir()
	const doc = "type: volume\nbackend: lium\nvolume_id: v\n"
	for _, name := range []string{".dstack.yml", "b.yml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]any{"type": "volume", "backend": "lium", "name": nil, "auto_cleanup_duration": nil, "tags": nil, "volume_id": "v"}
	for _, o := range []Options{{}, {File: "b.yml"}, {File: "-"}, {JSON: true}} {
		out, errOut, err := run(dir, doc, o)
		if err != nil || errOut != "" {
			t.Errorf("%+v: %v\n%s", o, err, errOut)
			continue
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", o, diff)
		}
	}
}

func TestWarns(t *testing.T) {
	_, errOut, err := run(t.TempDir(), "type: task\ncommands: [a]\nports: [10:30]\n", Options{File: "-"})
	if want := "warning: -:3:9: ports[0]: YAML reads 10:30 as the number 630: quote it to keep the text\n"; err != nil || errOut != want {
		t.Errorf("%v, got %q, want %q", err, errOut, want)
	}
}

func TestInvalid(t *testing.T) {
	const doc = "type: task\nnodes: x\nfoo: 1\n"
	_, _, err := run(t.TempDir(), doc, Options{File: "-"})
	if _, ok := errors.AsType[*config.Errors](err); !ok || err.Error() != "-:2:8: task.nodes: Input should be a valid integer, unable to parse string as an integer\n-:3:1: task.foo: Extra inputs are not permitted" {
		t.Errorf("error %v", err)
	}
	out, _, err := run(t.TempDir(), doc, Options{File: "-", JSON: true})
	if err == nil {
		t.Error("no exit code")
	}
	var got struct{ Errors []problem }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := []problem{
		{"-", 2, 8, "task.nodes", "int_parsing", "Input should be a valid integer, unable to parse string as an integer"},
		{"-", 3, 1, "task.foo", "extra_forbidden", "Extra inputs are not permitted"},
	}
	if diff := cmp.Diff(want, got.Errors); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Files that cannot be read, or hold no configuration.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 10<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"":        "No configuration file specified via `-f` and no default .dstack.yml configuration found",
		"missing": "Configuration file missing does not exist",
		"dir":     "is a directory",
		"big":     "Configuration file big is larger than 4194304 bytes",
		"-":       "-:1:1: Input should be a valid dictionary or object to extract fields from",
	} {
		if _, _, err := run(dir, "", Options{File: file}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", file, err, want)
		}
	}
}

// What a server would refuse is invalid too.
func TestRefused(t *testing.T) {
	_, _, err := run(t.TempDir(), "type: task\nname: Bad_Name!\nworking_dir: 3\ncommands: [a]\n", Options{File: "-"})
	want := "-:2:7: task.name: Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'\n-:3:14: task.working_dir: working_dir must be absolute"
	if _, ok := errors.AsType[*config.Errors](err); !ok || err.Error() != want {
		t.Errorf("error %v", err)
	}
}

func TestOtherKinds(t *testing.T) {
	dir := t.TempDir()
	for name, doc := range map[string]string{
		"profiles.yml": "profiles:\n- {name: a, max_price: 1}\n",
		"bad.yml":      "profiles:\n- {name: a, max_price: -1, foo: 1}\n",
		"config.yml":   "projects:\n- name: main\n  backends: [{type: lambda, creds: {type: api_key, api_key: hunter2}}, {type: lambda}]\n",
		"wrong.yml":    "projects:\n- {nam: main, backends: [{type: lambda, creds: hunter2}, {type: lambada}]}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		file, out, errOut, err string // out, errOut and err: what is among them; "" is nothing at all
	}{
		{"profiles.yml", `"max_price": 1`, "", ""},
		{"../../../examples/profiles/.dstack/profiles.yml", `"name": "nightly"`, "", ""},
		{"bad.yml", "", "", "bad.yml:2:24: profiles[0].max_price: Input should be greater than 0\nbad.yml:2:28: profiles[0].foo: Extra inputs"},
		{"config.yml", `"type": "lambda"`, "warning: config.yml:3:72: projects[0].backends[1]: the backend lambda", ""},
		{"wrong.yml", "", "", "wrong.yml:2:3: projects[0].name: Field required"},
	} {
		o := Options{File: tt.file}
		if strings.HasPrefix(tt.file, "..") { // counts from here
			var err error
			if o.File, err = filepath.Abs(tt.file); err != nil {
				t.Fatal(err)
			}
		}
		out, errOut, err := run(dir, "", o)
		msg := ""
		if err != nil {
			msg = err.Error()
		}
		for what, pair := range map[string][2]string{"output": {out, tt.out}, "warnings": {errOut, tt.errOut}, "error": {msg, tt.err}} {
			if got, want := pair[0], pair[1]; !strings.Contains(got, want) || want == "" && got != "" {
				t.Errorf("%s: %s %q, want %q", tt.file, what, got, want)
			}
		}
		if strings.Contains(out+errOut+msg, "hunter2") {
			t.Errorf("%s: a credential is shown", tt.file)
		}
	}
}
