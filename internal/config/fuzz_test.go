package config

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// FuzzParse: no input makes the parser panic or hang, errors have a place, and the normal
// form of what is valid is read back to the same.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"type: task\ncommands: [echo hi]\nresources: {gpu: A100:80GB:2, memory: 16GB.., cpu: arm:4..8}\n",
		"type: service\nport: 80\nimage: x\nmodel: m\nreplicas: 1..4\nscaling: {metric: rps, target: 10}\n",
		"type: fleet\nssh_config: {user: u, hosts: [a, {hostname: b, blocks: auto}]}\n",
		"type: volume\nbackend: aws\nregion: r\nsize: 100GB\n",
		"type: gateway\nbackend: gcp\nregion: r\n",
		"type: dev-environment\nide: vscode\ninactivity_duration: off\nenv: [A=b, C]\n",
		"a: &a [*a]\n", "type: task\nenv: {on: 1}\n", "- {", "\xff", "type: task\nvolumes: [a:/b, /c:/d]\nfiles: [./x]\nrepos: [.]\nschedule: {cron: '* * * * *'}\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		start := time.Now()
		a, err := Parse("f", data)
		if took := time.Since(start); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
		if err != nil {
			if es, ok := err.(*Errors); !ok || len(es.Problems) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		again(t, a)
	})
}

// again reads a normal form back.
func again(t *testing.T, a Any) {
	t.Helper()
	first, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var b Any
	if err := DecodeJSON(first, &b); err != nil {
		t.Fatalf("the normal form is refused: %v\n%s", err, first)
	}
	second, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Fatalf("the normal form is not stable:\n%s\n%s", first, second)
	}
}

// FuzzResources: the short forms of resources, which people write by hand.
func FuzzResources(f *testing.F) {
	for _, s := range []string{"A100:80GB:2", "24GB..", "H100,H200:8", "amd:MI300X", "0", "tpu-v2-8", "..", "1..2..3", ":::", "nvidia:16GB..:1.."} {
		f.Add(s, s, s, s)
	}
	schema := compileSchema(f, "configuration")
	f.Fuzz(func(t *testing.T, gpu, memory, cpu, disk string) {
		doc, err := json.Marshal(map[string]any{"type": "task", "commands": []string{"a"}, "resources": map[string]any{"gpu": gpu, "memory": memory, "cpu": cpu, "disk": disk}})
		if err != nil {
			t.Fatal(err)
		}
		var a Any
		if DecodeJSON(doc, &a) == nil {
			again(t, a)
			takes(t, schema, doc)
		}
	})
}

// FuzzForms: the short forms of everything else that is written in one line.
func FuzzForms(f *testing.F) {
	for _, s := range []string{"80", "8000:80", "*:1", "a:/b", "/a:/b//c/", "~/x:y", "C:\\x", "https://h:443/o/r:p", "git@h:o/r", "A=b", "A", "1h", "off",
		"user:group", "0:0", "bash", "/bin/sh", "3.10", "p/f", "org/app:1@sha256:0", "1..4", "0 8 * * mon-fri", "http://[::1]/x", "10:30"} {
		f.Add(s)
	}
	schema := compileSchema(f, "configuration")
	f.Fuzz(func(t *testing.T, s string) {
		for _, doc := range []map[string]any{
			{"type": "task", "commands": []string{s}, "ports": []string{s}}, {"type": "task", "image": s}, {"type": "task", "image": "x", "volumes": []string{s}},
			{"type": "task", "image": "x", "files": []string{s}}, {"type": "task", "image": "x", "repos": []string{s}}, {"type": "task", "image": "x", "env": []string{s}},
			{"type": "task", "image": "x", "env": map[string]string{s: s}}, {"type": "task", "image": "x", "tags": map[string]string{s: s}},
			{"type": "task", "image": "x", "user": s}, {"type": "task", "image": "x", "shell": s}, {"type": "task", "image": "x", "python": s},
			{"type": "task", "image": "x", "max_duration": s, "stop_duration": s}, {"type": "task", "image": "x", "idle_duration": s, "retry": s},
			{"type": "task", "image": "x", "fleets": []string{s}, "instances": []string{s}}, {"type": "task", "image": "x", "schedule": map[string]string{"cron": s}},
			{"type": "service", "image": "x", "port": s, "gateway": s}, {"type": "service", "image": "x", "port": 80, "replicas": s, "https": s, "model": s},
			{"type": "fleet", "nodes": s, "blocks": s}, {"type": "fleet", "ssh_config": map[string]any{"hosts": []string{s}, "network": s}},
			{"type": "volume", "backend": "aws", "region": s, "size": s}, {"type": "dev-environment", "inactivity_duration": s, "version": s},
		} {
			data, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			var a Any
			if DecodeJSON(data, &a) != nil {
				continue
			}
			again(t, a)
			takes(t, schema, data)
		}
	})
}

// takes checks that the schema takes what the parser does.
func takes(t *testing.T, schema *jsonschema.Schema, doc []byte) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(v); err != nil {
		t.Fatalf("the parser takes what the schema refuses: %s\n%v", doc, err)
	}
}

// FuzzText: what is not part of a document's form.
func FuzzText(f *testing.F) {
	for _, s := range []string{"1h", "-1", "99999999999999999999w", "*/5 0-23 * * 1,2", "a 'b c' \"d\"", "${{ secrets.x }}", "${{ env.A }} ${{", "$$ $x ${{ groups[0].nodes[1].IP_ADDRESS }}", "a \\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = ParseDuration(s)
		_, _ = Interpolate(s, map[string]map[string]string{"env": {"A": s}}, "secrets", "groups")
		for _, vendor := range []string{"nvidia", "amd", "intel"} {
			GPUVendorOf(GPUName(vendor, s))
		}
		if words, err := ShellSplit(ShellJoin([]string{s, s})); err != nil || len(words) != 2 || words[0] != s || words[1] != s {
			t.Fatalf("the quoted form of %q is split into %q: %v", s, words, err)
		}
		if words, err := ShellSplit(s); err == nil {
			back, err := ShellSplit(ShellJoin(words))
			if err != nil || !slices.Equal(back, words) {
				t.Fatalf("%q becomes %q, and %q again: %v", s, words, back, err)
			}
		}
		if c, err := ParseCron(s); err == nil {
			at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			if next := c.Next(at); !next.After(at) {
				t.Fatalf("%q after %v fires at %v", s, at, next)
			}
		}
	})
}
