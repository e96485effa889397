package pricelist

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// ReadFile reads a catalog file: <provider>.csv, or a zip archive that has just that. The date of
// its prices is the day on which the file was last changed. It also returns the names of
// accelerators that are not known, whose rows it left out.
func ReadFile(name string, now time.Time) (list *List, unknown []string, err error) {
	var b Builder
	if err := b.readFile(name, now); err != nil {
		return nil, nil, err
	}
	return b.List(), b.Unknown(), nil
}

func (b *Builder) readFile(name string, now time.Time) error {
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("read a catalog: %w", err)
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return fmt.Errorf("read a catalog: %s is not a file", name)
	}
	if info.Size() > maxCSV {
		return fmt.Errorf("%s: larger than %d bytes", filepath.Base(name), maxCSV)
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("read a catalog: %w", err)
	}
	defer f.Close()
	asOf := info.ModTime().UTC().Format("2006-01-02")
	if Ahead(asOf, now) {
		return fmt.Errorf("read a catalog: %s was last changed on %s, a day to come: set its date, from which its prices are", name, asOf)
	}
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read a catalog: %w", err)
	}
	if bytes.Equal(head, []byte("PK\x03\x04")) {
		return b.readZip(f, info.Size(), filepath.Base(name), asOf)
	}
	return b.ReadCSV(f, filepath.Base(name), asOf)
}

// ReadZip adds the catalog in an archive that is in memory. The name is for errors.
func (b *Builder) ReadZip(data []byte, name, asOf string) error {
	return b.readZip(bytes.NewReader(data), int64(len(data)), name, asOf)
}

func (b *Builder) readZip(r io.ReaderAt, size int64, name, asOf string) error {
	zr, err := zip.NewReader(r, size)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(zr.File) != 1 || strings.Contains(zr.File[0].Name, "\\") || path.Base(zr.File[0].Name) != zr.File[0].Name {
		return fmt.Errorf("%s: the archive of a catalog has one file, <provider>.csv", name)
	}
	if zr.File[0].UncompressedSize64 > maxCSV { // ReadCSV counts what there really is
		return fmt.Errorf("%s: the archive unpacks to more than %d bytes", name, maxCSV)
	}
	f, err := zr.File[0].Open()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	return b.ReadCSV(f, zr.File[0].Name, asOf)
}
