package collect

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// writeCatalog writes a large catalog in which one type costs so much, last changed at a time.
func writeCatalog(t *testing.T, path, price string, changed time.Time) {
	t.Helper()
	var b strings.Builder
	b.WriteString("instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot\nx,r," + price + ",4,16,0,,,False\ny,r,1,4,16,1,X1,8,False\n")
	for n := range worthKeeping / 150 {
		fmt.Fprintf(&b, "type-%0150d,region,2,4,16,0,,,False\n", n)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, changed, changed); err != nil {
		t.Fatal(err)
	}
}

// A file is read again when it, or the program, has changed; what is kept is what it says.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "aws.csv")
	f := Files{Shelf: Shelf{Dir: filepath.Join(dir, "kept")}, Version: "1"}
	changed := today.Add(-time.Hour)
	price := func(f Files) float64 {
		t.Helper()
		l, unknown, err := f.Read(path, today)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"X1"}, unknown); diff != "" {
			t.Errorf("left out (-want +got):\n%s", diff)
		}
		return l.Row(0).Price
	}
	kept := func() []string {
		names, _ := filepath.Glob(filepath.Join(f.Shelf.Dir, "*"))
		return names
	}
	writeCatalog(t, path, "0.12345678912", changed) // finer than what can be kept
	if got := price(f); got != 0.123456789 || len(kept()) != 1 {
		t.Errorf("$%v, kept %q", got, kept())
	}
	writeCatalog(t, path, "0.22345678912", changed) // looks the same
	if got := price(f); got != 0.123456789 {
		t.Errorf("it was read again: $%v", got)
	}
	if got := price(Files{f.Shelf, "2"}); got != 0.223456789 {
		t.Errorf("another program has $%v", got)
	}
	writeCatalog(t, path, "0.32345678912", changed.Add(time.Second))
	if got := price(f); got != 0.323456789 || len(kept()) != 1 {
		t.Errorf("a changed file: $%v, kept %q", got, kept())
	}
	if err := os.WriteFile(kept()[0], []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := price(f); got != 0.323456789 {
		t.Errorf("what is kept is damaged: $%v", got)
	}
	if _, _, err := f.Read(path, today.AddDate(0, 0, -3)); err == nil || !strings.Contains(err.Error(), "a day to come") {
		t.Errorf("of a day to come: %v", err)
	}
	for n := range maxFiles + 3 {
		path = filepath.Join(dir, fmt.Sprint(n), "aws.csv")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		writeCatalog(t, path, "1", changed)
		price(f)
	}
	if len(kept()) != maxFiles {
		t.Errorf("%d are kept", len(kept()))
	}
}

// What has just been written may yet be changed and look the same; what is small is read at once.
func TestFilesKeepsNotAll(t *testing.T) {
	dir := t.TempDir()
	f := Files{Shelf: Shelf{Dir: filepath.Join(dir, "kept")}}
	path := filepath.Join(dir, "aws.csv")
	writeCatalog(t, path, "1", today.Add(-time.Second))
	small := filepath.Join(dir, "gcp.csv")
	if err := os.WriteFile(small, []byte("instance_name,location,price,cpu,memory,gpu_count,spot\nx,r-a,1,1,1,0,False\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(small, today.Add(-time.Hour), today.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, small} {
		if _, _, err := f.Read(p, today); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(f.Shelf.Dir); !os.IsNotExist(err) {
		t.Errorf("something is kept: %v", err)
	}
	if _, _, err := f.Read(filepath.Join(dir, "none.csv"), today); err == nil {
		t.Error("a file that is not there was read")
	}
}
