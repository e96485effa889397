package collect

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"dstack/internal/catalog/pricelist"
)

// A Shelf is the directory in which the last good list of each provider is kept.
type Shelf struct{ Dir string }

const suffix = ".prices"

// Put replaces the list of a provider at once: a reader has the old one or the new one.
func (s Shelf) Put(provider string, l *pricelist.List) error {
	var packed bytes.Buffer
	if err := l.Encode(&packed); err != nil {
		return fmt.Errorf("keep the prices of %s: %w", provider, err)
	}
	if err := s.write(filepath.Join(s.Dir, provider+suffix), packed.Bytes()); err != nil {
		return fmt.Errorf("keep the prices of %s: %w", provider, err)
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

// Lists reads what is kept, by provider. Lists that cannot be read are missing and named in
// the error.
func (s Shelf) Lists() (map[string]*pricelist.List, error) {
	lists := map[string]*pricelist.List{}
	var broken error
	for _, source := range Sources() {
		f, err := os.Open(filepath.Join(s.Dir, source.Provider+suffix))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var l *pricelist.List
		if err == nil {
			l, err = pricelist.Decode(f)
			_ = f.Close() // it was only read
		}
		if err == nil && (len(l.Backends()) != 1 || l.Backends()[0] != source.Provider) {
			err = errors.New("it has prices of others")
		}
		if err != nil {
			broken = errors.Join(broken, fmt.Errorf("read the prices of %s: %w", source.Provider, err))
			continue
		}
		lists[source.Provider] = l
	}
	return lists, broken
}
