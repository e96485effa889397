package collect

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"dstack/internal/catalog/pricelist"
)

// A Shelf is the directory in which the last good list of each source is kept.
type Shelf struct{ Dir string }

const suffix = ".prices"

// Put replaces the list of a source at once: a reader has the old one or the new one. A list that
// is older than the one that is kept is an error; one that cannot be used is always replaced.
func (s Shelf) Put(source Source, l *pricelist.List, now time.Time) error {
	if kept, err := s.read(source, now); err == nil && kept != nil {
		_, before := kept.Dates()
		if _, newest := l.Dates(); newest < before {
			return fmt.Errorf("keep the prices of %s: those of %s are older than those that are kept, of %s", source.Name(), newest, before)
		}
	}
	var packed bytes.Buffer
	if err := l.Encode(&packed); err != nil {
		return fmt.Errorf("keep the prices of %s: %w", source.Name(), err)
	}
	if err := s.write(filepath.Join(s.Dir, source.Name()+suffix), packed.Bytes()); err != nil {
		return fmt.Errorf("keep the prices of %s: %w", source.Name(), err)
	}
	return nil
}

func (s Shelf) write(path string, data []byte) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.Dir, ".prices-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it is of no use
	}
	return err
}

// Lists reads what is kept, by source. Lists that cannot be read are missing and named in the
// error, and so are those of a day after now: no newer list would ever replace them.
func (s Shelf) Lists(now time.Time) (map[string]*pricelist.List, error) {
	lists := map[string]*pricelist.List{}
	var broken error
	for _, source := range Sources() {
		l, err := s.read(source, now)
		switch {
		case err != nil:
			broken = errors.Join(broken, fmt.Errorf("read the prices of %s: %w", source.Name(), err))
		case l != nil:
			lists[source.Name()] = l
		}
	}
	return lists, broken
}

// Kept is when the list of a source was put there, zero when there is none.
func (s Shelf) Kept(source Source) time.Time {
	info, err := os.Stat(filepath.Join(s.Dir, source.Name()+suffix))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// read is the list of a source, nil when none is kept.
func (s Shelf) read(source Source, now time.Time) (*pricelist.List, error) {
	f, err := os.Open(filepath.Join(s.Dir, source.Name()+suffix))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer f.Close()
	l, err := pricelist.Decode(f)
	if err != nil {
		return nil, err
	}
	if names := l.Backends(); len(names) != 1 || names[0] != source.Provider || source.Spot && !l.OnlySpot() {
		return nil, errors.New("it has prices of others")
	}
	if _, newest := l.Dates(); pricelist.Ahead(newest, now) {
		return nil, fmt.Errorf("it is of %s, a day to come", newest)
	}
	return l, nil
}
