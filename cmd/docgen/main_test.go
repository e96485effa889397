package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dstack/internal/backend/all"
)

// The committed pages are those that the code makes.
func TestPages(t *testing.T) {
	pages, err := Pages()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range pages {
		got, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", name))
		if err != nil || string(got) != want {
			t.Errorf("docs/reference/%s is not what the code makes; run make generate (%v)", name, err)
		}
	}
}

// The page about fleets names the backends that there are.
func TestBackendsOfThisBuild(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "fleets.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Backends of this build\n")
	section, _, _ = strings.Cut(section, "\n## ")
	types := all.Types(nil)
	for _, b := range types {
		if !strings.Contains(section, "\n| ["+b.Name+"](") {
			t.Errorf("docs/fleets.md does not have the backend %s", b.Name)
		}
	}
	if n := strings.Count(section, "\n| ["); n != len(types) {
		t.Errorf("docs/fleets.md has %d backends, this build %d", n, len(types))
	}
}
