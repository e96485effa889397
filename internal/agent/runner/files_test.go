package runner

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type entry struct {
	name, link, body string
	kind             byte
	mode             int64
}

func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		if err := w.WriteHeader(&tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Size: int64(len(e.body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	dir := t.TempDir()
	data := tarball(t,
		entry{name: "src/", kind: tar.TypeDir, mode: 0o755},
		entry{name: "src/run.sh", body: "echo", mode: 0o755},
		entry{name: "src/deep/er/file", body: "x"},
		entry{name: "src/link", link: "run.sh", kind: tar.TypeSymlink},
		entry{name: "src/hard", link: "src/run.sh", kind: tar.TypeLink},
		entry{name: "src/run.sh", body: "echo again", mode: 0o700}, // the last one counts
	)
	if err := Unpack(bytes.NewReader(data), dir, "code"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"code/run.sh": "echo again", "code/deep/er/file": "x", "code/link": "echo again", "code/hard": "echo again"} {
		if got := read(t, dir, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "code/run.sh")); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// No archive writes outside of its directory.
func TestUnpackStaysInside(t *testing.T) {
	for name, entries := range map[string][]entry{
		"dots":                   {{name: "../evil", body: "x"}},
		"dots inside":            {{name: "a/../../evil", body: "x"}},
		"an absolute path":       {{name: "/evil", body: "x"}},
		"through a link":         {{name: "out", link: "..", kind: tar.TypeSymlink}, {name: "out/evil", body: "x"}},
		"through a link again":   {{name: "d/", kind: tar.TypeDir}, {name: "d", link: "../..", kind: tar.TypeSymlink}, {name: "d/evil", body: "x"}},
		"a hard link outside":    {{name: "evil", link: "../secret", kind: tar.TypeLink}},
		"a hard link to a link":  {{name: "s", link: "../secret", kind: tar.TypeSymlink}, {name: "evil", link: "s", kind: tar.TypeLink}},
		"a device":               {{name: "evil", kind: tar.TypeChar}},
		"a pipe":                 {{name: "evil", kind: tar.TypeFifo}},
		"over a link":            {{name: "f", link: "../secret", kind: tar.TypeSymlink}, {name: "f", body: "changed"}},
		"an empty name":          {{name: "", body: "x"}},
		"the directory itself":   {{name: ".", kind: tar.TypeSymlink, link: ".."}},
		"a link below a link":    {{name: "a", link: "..", kind: tar.TypeSymlink}, {name: "a/evil", link: "/etc", kind: tar.TypeSymlink}},
		"a name with many slash": {{name: "..//..//evil", body: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			outer, inner := nested(t)
			_ = Unpack(bytes.NewReader(tarball(t, entries...)), inner, "") // refused or left out
			outside(t, outer)
		})
	}
}

func outside(t testing.TB, outer string) {
	t.Helper()
	if data, err := os.ReadFile(filepath.Join(outer, "secret")); err != nil || string(data) != "secret" {
		t.Errorf("the file outside is %q (%v)", data, err)
	}
	_ = filepath.WalkDir(outer, func(path string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(outer, path); err == nil && rel != "." && rel != "secret" && rel != "inner" && !strings.HasPrefix(rel, "inner/") {
			t.Errorf("%s was made", rel)
		}
		return nil
	})
}

func TestUnpackBroken(t *testing.T) {
	good := tarball(t, entry{name: "a", body: strings.Repeat("x", 5000)})
	if err := Unpack(bytes.NewReader(good[:2000]), t.TempDir(), ""); err == nil {
		t.Error("a cut archive was accepted")
	}
	if err := Unpack(strings.NewReader(strings.Repeat("no tar ", 200)), t.TempDir(), ""); err == nil {
		t.Error("something else than an archive was accepted")
	}
}

// An archive cannot fill the disk with what it does not hold.
func TestUnpackSparse(t *testing.T) {
	// A PAX header of a sparse file of one tebibyte whose map has one byte at its end.
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	records := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n30 GNU.sparse.name=sparse.bin\n37 GNU.sparse.realsize=1099511627776\n"
	header := tar.Header{Name: "PaxHeaders/sparse", Typeflag: tar.TypeReg, Size: int64(len(records)), Format: tar.FormatUSTAR}
	if err := w.WriteHeader(&header); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, records); err != nil {
		t.Fatal(err)
	}
	body := "1\n1099511627775\n1\n" + strings.Repeat("\x00", 512-18) + "x"
	if err := w.WriteHeader(&tar.Header{Name: "sparse", Typeflag: tar.TypeReg, Size: int64(len(body)), Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data := b.Bytes()
	data[156] = tar.TypeXHeader // the writer does not make sparse files
	sum := 0
	copy(data[148:156], "        ")
	for _, c := range data[:512] {
		sum += int(c)
	}
	copy(data[148:156], fmt.Sprintf("%06o\x00 ", sum))
	if err := Unpack(bytes.NewReader(data), t.TempDir(), ""); err == nil || !strings.Contains(err.Error(), "claims more bytes") {
		t.Errorf("%v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(tarball(f, entry{name: "a/b", body: "x"}, entry{name: "l", link: "../..", kind: tar.TypeSymlink}, entry{name: "l/x", body: "y"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer, inner := nested(t)
		_ = Unpack(bytes.NewReader(data), inner, "") // whether it can be read is not the question
		outside(t, outer)
	})
}
