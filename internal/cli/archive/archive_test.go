package archive

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree creates files from "path" → content; a content of the form "-> x" makes a link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(to, file)
		} else {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func entries(t *testing.T, r io.Reader) []string {
	t.Helper()
	var got []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		name := h.Name
		if h.Typeflag == tar.TypeSymlink {
			name += " -> " + h.Linkname
		}
		got = append(got, name)
	}
}

func TestPack(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		root  string
		want  []string
	}{
		"a file": {map[string]string{"a.txt": "a"}, "a.txt", []string{"a.txt"}},
		"hidden files stay, .git of the root goes": {
			map[string]string{"d/.env": "", "d/.git/config": "", "d/sub/.git": "gitdir"},
			"d", []string{"d/", "d/.env", "d/sub/", "d/sub/.git"},
		},
		"rules at all levels": {
			map[string]string{
				".gitignore": "*.tmp\n", "d/.gitignore": "/out/\n!keep.log\n", "d/x.tmp": "", "d/out/a": "",
				"d/s/out/a": "", "d/s/.ignore": "*.log\n", "d/s/a.log": "", "d/s/keep.log": "",
			},
			"d", []string{"d/", "d/.gitignore", "d/s/", "d/s/.ignore", "d/s/out/", "d/s/out/a"},
		},
		".dstackignore wins": {
			map[string]string{"d/.gitignore": "data/\n", "d/.dstackignore": "!data/\nsecret*\n", "d/data/a": "", "d/secret.txt": ""},
			"d", []string{"d/", "d/.dstackignore", "d/.gitignore", "d/data/", "d/data/a"},
		},
		"patterns": {
			map[string]string{
				"d/.gitignore": "# no\n**/build/*.o\na/**\nfile[0-9]\n\\#x\nsp\\ \n", "d/x/build/m.o": "", "d/x/build/m.c": "",
				"d/a/b/c": "", "d/file1": "", "d/filex": "", "d/#x": "",
			},
			"d", []string{"d/", "d/.gitignore", "d/a/", "d/filex", "d/x/", "d/x/build/", "d/x/build/m.c"},
		},
		"links": {
			map[string]string{"d/in": "-> sub/f", "d/sub/f": "", "d/out": "-> ../o", "o": "content", "d/dead": "-> nowhere"},
			"d", []string{"d/", "d/dead -> nowhere", "d/in -> sub/f", "d/out", "d/sub/", "d/sub/f"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, tt.files)
			var buf bytes.Buffer
			hash, err := Pack(t.Context(), filepath.Join(dir, tt.root), NewIgnore(""), &buf)
			if err != nil {
				t.Fatal(err)
			}
			if len(hash) != 64 {
				t.Errorf("hash = %q, want 64 hex digits", hash)
			}
			if diff := cmp.Diff(tt.want, entries(t, &buf)); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPackMissing(t *testing.T) {
	if _, err := Pack(t.Context(), filepath.Join(t.TempDir(), "no"), NewIgnore(""), io.Discard); err == nil {
		t.Error("Pack of a missing file gave no error")
	}
}

func FuzzRule(f *testing.F) {
	f.Add("**/a[!x]/*.o", "b/ay/c.o")
	f.Fuzz(func(t *testing.T, line, name string) {
		if r, ok := parseRule(line); ok {
			match([]rule{r}, "/", "/"+name, false) // must not panic
		}
	})
}
