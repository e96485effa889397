package jinja

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What Jinja makes of real templates and of small ones; testdata/generate.py wrote it down.
func TestAsJinja(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name, Template, Want, Says, Fails string
		Vars                              map[string]any
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	if err := d.Decode(&cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		source := c.Template
		if file, _, ok := strings.Cut(c.Name, ".jinja"); ok {
			data, err := os.ReadFile(filepath.Join("testdata", file+".jinja"))
			if err != nil {
				t.Fatal(err)
			}
			source = string(data)
		}
		tmpl, err := Compile(source)
		if (err != nil) != (c.Fails == "compile") {
			t.Errorf("%s: %q compiles: %v; Jinja says: %q", c.Name, source, err, c.Fails)
		}
		if err != nil {
			continue
		}
		got, err := tmpl.Render(t.Context(), numbers64(c.Vars).(map[string]any))
		if (err != nil) != (c.Fails == "render") {
			t.Errorf("%s: %q renders: %v; Jinja says: %q, %q", c.Name, source, err, c.Fails, c.Want)
			continue
		}
		if c.Says != "" && err.Error() != c.Says {
			t.Errorf("%s: %v, want %s", c.Name, err, c.Says)
		}
		if diff := cmp.Diff(c.Want, got); diff != "" && err == nil {
			t.Errorf("%s: %q (-Jinja +ours):\n%s", c.Name, source, diff)
		}
	}
}

// numbers64 turns the numbers of JSON into those of templates.
func numbers64(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = numbers64(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers64(v[k])
		}
	}
	return v
}

// Templates that want too much end with an error, soon.
func TestBounds(t *testing.T) {
	for name, source := range map[string]string{
		"a text that doubles":       "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
		"a list that doubles":       "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
		"a long text":               "{{ 'x' * 1000000000000 }}",
		"a long list":               "{{ [1] * 9223372036854775807 }}",
		"loops in loops":            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
		"much output":               "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
		"a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"two that do":               "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
		"a list in lists":           "{% set ns = namespace(s=[]) %}{% for i in range(999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
		"lists compared":            "{% set ns = namespace(s=[], t=[]) %}{% for i in range(999) %}{% set ns.s = [ns.s] %}{% set ns.t = [ns.t] %}{% endfor %}{{ ns.s == ns.t }}",
		"a tree of lists":           "{% set ns = namespace(s=[]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
		"a tree as JSON":            "{% set ns = namespace(s=[]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
		"trees compared":            "{% set ns = namespace(s=[], t=[]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.s == ns.t }}",
		"a replacement":             "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
		"an indent":                 "{{ ('\\n' * 999999) | indent('x' * 99999, true, true) }}",
		"a join":                    "{{ range(99999) | join('x' * 99999) }}",
		"a power":                   "{{ 10 ** 400 }}",
		"a sum":                     "{{ 9223372036854775807 + 1 }}",
		"brackets":                  "{{ " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + " }}",
		"parentheses":               "{{ " + strings.Repeat("(", 99) + "1" + strings.Repeat(")", 99) + strings.Repeat(" + (1", 99) + strings.Repeat(")", 99) + " }}",
		"signs":                     "{{ " + strings.Repeat("- ", 9999) + "1 }}",
		"negations":                 "{{ " + strings.Repeat("not ", 9999) + "1 }}",
		"conditions":                "{{ " + strings.Repeat("1 if 0 else ", 9999) + "1 }}",
		"filters":                   "{{ 1" + strings.Repeat("|e", 9999) + " }}",
		"attributes":                "{{ d" + strings.Repeat(".a", 9999) + " }}",
		"blocks":                    strings.Repeat("{% if 1 %}", 9999) + strings.Repeat("{% endif %}", 9999),
		"branches":                  "{% if 0 %}" + strings.Repeat("{% elif 0 %}", 9999) + "{% endif %}",
		"a large template":          strings.Repeat("x", maxSource+1),
	} {
		begun := time.Now()
		tmpl, err := Compile(source)
		if err == nil {
			_, err = tmpl.Render(t.Context(), nil)
		}
		if _, ok := errors.AsType[*Error](err); !ok {
			t.Errorf("%s: %v, want an error of the template", name, err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// Long chains are no nesting: they work, and do not exhaust the stack.
func TestLongChains(t *testing.T) {
	tmpl, err := Compile("{{ " + strings.Repeat("1+", maxSource/2-10) + "1 }}")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tmpl.Render(t.Context(), nil); err != nil || got != "131063" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestRenderEndsWithItsContext(t *testing.T) {
	tmpl, err := Compile("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tmpl.Render(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Jinja tries these and finds no file; there is nothing to try here.
func TestNoFiles(t *testing.T) {
	for _, source := range []string{"{% include '/etc/passwd' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% block x %}{% endblock %}"} {
		if _, err := Compile(source); err == nil || !strings.Contains(err.Error(), "is not supported") {
			t.Errorf("%s: %v", source, err)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.jinja"))
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Add("{% macro m(a, b=[1]) %}{{ a|d(1)|tojson }}{% endmacro %}{{ m({'x': 1.5}, b=(1, 2)) }}{% for a, b in {}.items() if a is gt 2 %}{% break %}{% endfor %}")
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := Compile(source)
		if err != nil {
			return // refusing is fine, panicking is not
		}
		vars := map[string]any{"messages": []any{map[string]any{"role": "user", "content": "hi"}}, "n": 3, "f": 1.5, "s": "text", "d": map[string]any{"a": nil}}
		text, err := tmpl.Render(t.Context(), vars)
		if err == nil && len(text) > maxBytes {
			t.Errorf("%d bytes", len(text))
		}
	})
}
