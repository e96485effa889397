package collect

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"dstack/internal/catalog/pricelist"
)

const (
	// worthKeeping is the size in bytes from which on a catalog file takes a while to read.
	worthKeeping = 256 << 10
	// maxFiles is of how many files the lists are kept, those that were read last.
	maxFiles = 20
	// settled is how long ago a file must have been changed: within the grain of its time it could
	// change again and look the same.
	settled = 2 * time.Second
)

// Files reads large catalog files once, and then their lists, which it keeps, until they change.
type Files struct {
	Shelf   Shelf
	Version string // of the program: another may read a file otherwise
}

// origin is what a list was read from, and what was left out; the first line of what is kept.
type origin struct {
	Path    string    `json:"path"`
	Size    int64     `json:"size"` // bytes
	Changed time.Time `json:"changed"`
	Version string    `json:"version"`
	Unknown []string  `json:"unknown"`
}

// Read is [pricelist.ReadFile] of an absolute path.
func (f Files) Read(path string, now time.Time) (list *pricelist.List, unknown []string, err error) {
	info, err := os.Stat(path)
	if err != nil || info.Size() < worthKeeping {
		return pricelist.ReadFile(path, now)
	}
	name := sha256.Sum256([]byte(path))
	kept := filepath.Join(f.Shelf.Dir, hex.EncodeToString(name[:16])+suffix)
	from := origin{Path: path, Size: info.Size(), Changed: info.ModTime().UTC(), Version: f.Version}
	if list, unknown, err := readKept(kept, from, now); err == nil {
		return list, unknown, nil
	}
	list, unknown, err = pricelist.ReadFile(path, now)
	if err != nil || now.Sub(info.ModTime()) < settled {
		return list, unknown, err
	}
	from.Unknown = unknown
	_ = f.keep(kept, from, list) // without it the next command reads the file, as this one did
	return list, unknown, nil
}

// readKept reads a list that was read from a file as it is now.
func readKept(kept string, want origin, now time.Time) (*pricelist.List, []string, error) {
	f, err := os.Open(kept)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, nil, err
	}
	var got origin
	if err := json.Unmarshal(line, &got); err != nil {
		return nil, nil, err
	}
	same := got.Path == want.Path && got.Size == want.Size && got.Changed.Equal(want.Changed) && got.Version == want.Version
	if !same || pricelist.Ahead(got.Changed.Format(time.DateOnly), now) {
		return nil, nil, errors.New("it is of another file")
	}
	l, err := pricelist.Decode(r)
	return l, got.Unknown, err
}

func (f Files) keep(kept string, from origin, l *pricelist.List) error {
	line, err := json.Marshal(from)
	if err != nil {
		return err
	}
	packed := bytes.NewBuffer(append(line, '\n'))
	if err := l.Encode(packed); err != nil {
		return err
	}
	if err := f.Shelf.write(kept, packed.Bytes()); err != nil {
		return err
	}
	return f.prune()
}

// prune removes what was kept first of too many.
func (f Files) prune() error {
	names, err := filepath.Glob(filepath.Join(f.Shelf.Dir, "*"+suffix))
	if err != nil || len(names) <= maxFiles {
		return err
	}
	age := map[string]time.Time{}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			age[name] = info.ModTime()
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(age[b].Compare(age[a]), cmp.Compare(a, b)) })
	for _, name := range names[maxFiles:] {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}
