// Package archive packs the local files that a run asks for.
//
// It is tested with directories and the entries that must come out, see testdata.
package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// maxEntries bounds an archive: far beyond what a server takes, and the end of a loop in the file system.
const maxEntries = 1_000_000

// Pack writes an uncompressed tar of root, a file or a directory, to w, and returns the SHA-256 of what it wrote in hex.
// Entries are named relative to root's parent, in the order of their paths. Ignored files are left out, see [Ignore].
// A symbolic link into root stays a link; one that leads out of it becomes the file it leads to.
func Pack(ctx context.Context, root string, ig *Ignore, w io.Writer) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("archive %s: %w", root, err)
	}
	sum := sha256.New()
	p := &packer{ctx: ctx, root: root, ignore: ig, tar: tar.NewWriter(io.MultiWriter(w, sum))}
	info, err := os.Stat(root)
	if err == nil {
		err = p.add(root, info)
	}
	if err == nil {
		err = p.tar.Close()
	}
	if err != nil {
		return "", fmt.Errorf("archive %s: %w", root, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

type packer struct {
	ctx    context.Context //nolint:containedctx // one walk
	root   string
	ignore *Ignore
	tar    *tar.Writer
	n      int
}

// add writes the entry for file and, for a directory, those beneath it.
func (p *packer) add(file string, info fs.FileInfo) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if p.n++; p.n > maxEntries {
		return fmt.Errorf("more than %d files", maxEntries)
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return p.addDir(file, info)
	case mode.IsRegular():
		return p.addFile(file, info)
	case mode&fs.ModeSymlink != 0:
		return p.addLink(file, info)
	default: // sockets, devices and pipes have no content to send
		return nil
	}
}

func (p *packer) addDir(dir string, info fs.FileInfo) error {
	if err := p.header(dir, info, ""); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return err
	}
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		if e.IsDir() && e.Name() == ".git" && dir == p.root {
			continue
		}
		if p.ignore.Match(file, e.IsDir()) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return err
		}
		if err := p.add(file, info); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) addLink(file string, info fs.FileInfo) error {
	target, err := filepath.EvalSymlinks(file)
	if err != nil { // it leads nowhere here, perhaps somewhere in the container
		text, rerr := os.Readlink(file)
		if rerr != nil || filepath.IsAbs(text) {
			return err
		}
		return p.header(file, info, filepath.ToSlash(text))
	}
	root, err := filepath.EvalSymlinks(p.root)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(root, target); err == nil && filepath.IsLocal(rel) && root != target {
		dir, err := filepath.EvalSymlinks(filepath.Dir(file))
		if err != nil {
			return err
		}
		text, err := filepath.Rel(dir, target)
		if err != nil {
			return err
		}
		return p.header(file, info, filepath.ToSlash(text))
	}
	info, err = os.Stat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() { // a directory outside may contain anything, also this one
		return nil
	}
	return p.addFile(file, info)
}

func (p *packer) addFile(file string, info fs.FileInfo) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	if err := p.header(file, info, ""); err != nil {
		return err
	}
	n, err := io.Copy(p.tar, io.LimitReader(f, info.Size()))
	if err == nil && n < info.Size() {
		return fmt.Errorf("%s became shorter while it was read: try again when nothing writes to it", file)
	}
	return err
}

func (p *packer) header(file string, info fs.FileInfo, link string) error {
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(p.root, file)
	if err != nil {
		return err
	}
	h.Name = path.Join(filepath.Base(p.root), filepath.ToSlash(rel))
	if info.IsDir() {
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	}
	h.Format = tar.FormatPAX
	return p.tar.WriteHeader(h)
}
