package clientconfig

import (
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = `repos:
- path: /x
  repo_id: a
projects:
- default: true
  name: main
  token: t1
  url: http://127.0.0.1:3000
- name: research
  default: null
  token: t2
  url: https://dstack.example.com
`

func TestUpdate(t *testing.T) {
	d := Dir(t.TempDir())
	if err := os.WriteFile(d.Path(), []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	err := d.Update(func(ps []Project) []Project {
		return Put(ps, Project{Name: "research", URL: "u", Token: "t3", Default: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	want := `projects:
- default: false
  name: main
  token: t1
  url: http://127.0.0.1:3000
- default: true
  name: research
  token: t3
  url: u
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("config.yml (-want +got):\n%s", diff)
	}
}

func TestPut(t *testing.T) {
	a := Project{Name: "a", Default: true}
	b := Project{Name: "b"}
	for name, tt := range map[string]struct {
		have []Project
		put  Project
		want []Project
	}{
		"the only entry is default":    {nil, b, []Project{{Name: "b", Default: true}}},
		"a second one is not":          {[]Project{a}, b, []Project{a, b}},
		"replaced entry stays default": {[]Project{a}, Project{Name: "a", URL: "u"}, []Project{{Name: "a", URL: "u", Default: true}}},
		"a new default is the only":    {[]Project{a}, Project{Name: "b", Default: true}, []Project{{Name: "a"}, {Name: "b", Default: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Put(tt.have, tt.put)); diff != "" {
				t.Errorf("Put (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidFileIsReplaced(t *testing.T) {
	d := Dir(t.TempDir())
	if err := os.WriteFile(d.Path(), []byte("projects: [1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); err == nil {
		t.Error("Load of broken YAML gave no error")
	}
	if err := d.Update(func(ps []Project) []Project { return Put(ps, Project{Name: "a", URL: "u", Token: "t"}) }); err != nil {
		t.Fatal(err)
	}
	ps, err := d.Load()
	if err != nil || len(ps) != 1 {
		t.Errorf("Load = %v, %v, want one project", ps, err)
	}
}

func TestConcurrentUpdates(t *testing.T) {
	d := Dir(t.TempDir())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			err := d.Update(func(ps []Project) []Project {
				return Put(ps, Project{Name: string(rune('a' + i)), URL: "u", Token: "t"})
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ps, err := d.Load(); err != nil || len(ps) != 8 {
		t.Errorf("Load = %d projects, %v, want 8", len(ps), err)
	}
}
