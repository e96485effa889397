package config

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
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
	f.Fuzz(func(t *testing.T, gpu, memory, cpu, disk string) {
		doc, err := json.Marshal(map[string]any{"type": "task", "commands": []string{"a"}, "resources": map[string]any{"gpu": gpu, "memory": memory, "cpu": cpu, "disk": disk}})
		if err != nil {
			t.Fatal(err)
		}
		var a Any
		if DecodeJSON(doc, &a) == nil {
			again(t, a)
		}
	})
}

// FuzzText: durations, cron expressions, commands and references.
func FuzzText(f *testing.F) {
	for _, s := range []string{"1h", "-1", "99999999999999999999w", "*/5 0-23 * * 1,2", "a 'b c' \"d\"", "${{ secrets.x }}", "${{ env.A }} ${{", "8000:80", "*:1", "user:group"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		_, _ = ParseDuration(s)
		_, _ = ParsePort(s)
		_, _ = ParseUnixUser(s)
		_, _ = ShellSplit(s)
		_, _, _ = ParseEnvItem(s)
		if c, err := ParseCron(s); err == nil {
			c.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		}
	})
}
