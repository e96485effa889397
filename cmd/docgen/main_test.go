package main

import (
	"os"
	"path/filepath"
	"testing"
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
