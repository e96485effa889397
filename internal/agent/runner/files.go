package runner

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"dstack/internal/agentapi"
)

// setupFiles unpacks the uploaded archives (host-agents 2.10).
func (r *runner) setupFiles(dir string) error {
	for _, f := range r.spec.Files {
		if err := r.setupFile(f, dir); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return nil
}

func (r *runner) setupFile(f agentapi.FileArchive, dir string) error {
	target, err := r.place(f.Path, dir)
	if err != nil {
		return err
	}
	parent, base := filepath.Split(target)
	if base == "" || target == "/" {
		return errors.New("not a path for files")
	}
	if err := r.acct.own(filepath.Clean(parent)); err != nil {
		return err
	}
	if err := os.RemoveAll(target); err != nil {
		r.Log.Warn("remove what is in the way of files", "path", target, "err", err)
	}
	if err := r.unpack(f.Blob, parent, base); err != nil {
		return err
	}
	r.chown(target)
	return nil
}

func (r *runner) unpack(blob, dir, rename string) error {
	f, err := r.openBlob(blob)
	if err != nil {
		return err
	}
	defer f.Close()
	return Unpack(f, dir, rename)
}

// openBlob opens what was uploaded for the job.
func (r *runner) openBlob(sum string) (*os.File, error) {
	if sum == "" || strings.ContainsAny(sum, "/.") {
		return nil, fmt.Errorf("no blob %q", sum)
	}
	return os.Open(filepath.Join(r.Blobs, sum))
}

// chown gives a tree to the job's user, as far as we may.
func (r *runner) chown(root string) {
	if !r.Container || os.Getuid() != 0 {
		return
	}
	_ = filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if err == nil {
			_ = os.Lchown(p, int(r.acct.uid), int(r.acct.gid))
		}
		return nil
	})
}

// Unpack extracts a plain tar below dir. Nothing can land outside: names are cleaned, and
// the work is done through a root handle that no link leads out of. Links come last, so
// that they never redirect other entries. With rename the first component of every name
// becomes it. A plain tar holds every byte that it extracts, so one that claims more (the
// holes of a sparse file) is refused before it fills the disk.
func Unpack(r io.ReadSeeker, dir, rename string) error {
	left, err := r.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = r.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("read the archive: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	type link struct{ name, target string }
	var hard, soft []link
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		if n > 1_000_000 {
			return errors.New("the archive has more than a million entries")
		}
		if h.Typeflag == tar.TypeReg {
			if left -= h.Size; left < 0 {
				return fmt.Errorf("%s: the archive claims more bytes than it has", h.Name)
			}
		}
		name := entryName(h.Name, rename)
		if name == "" {
			continue
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = mkdirs(root, name, h.FileInfo().Mode().Perm()|0o700)
		case tar.TypeReg:
			err = extract(root, name, tr, h.FileInfo().Mode().Perm())
		case tar.TypeLink:
			if t := entryName(h.Linkname, rename); t != "" {
				hard = append(hard, link{name, t})
			}
		case tar.TypeSymlink:
			soft = append(soft, link{name, h.Linkname})
		}
		if err != nil {
			return err
		}
	}
	for _, l := range hard {
		if err := prepare(root, l.name); err != nil {
			return err
		}
		if err := root.Link(l.target, l.name); err != nil {
			return err
		}
	}
	for _, l := range soft {
		if err := prepare(root, l.name); err != nil {
			return err
		}
		if err := root.Symlink(l.target, l.name); err != nil {
			return err
		}
	}
	return nil
}

// entryName cleans a name; "" for the root itself and for names that lead outside.
func entryName(name, rename string) string {
	if strings.ContainsRune(name, 0) {
		return ""
	}
	clean := path.Clean(name)
	if clean == "." || clean == "/" || path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
		return ""
	}
	if rename != "" {
		_, rest, ok := strings.Cut(clean, "/")
		if clean = rename; ok {
			clean += "/" + rest
		}
	}
	return clean
}

func mkdirs(root *os.Root, name string, mode os.FileMode) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil && path.Dir(name) != "." {
		return err
	}
	err := root.Mkdir(name, mode)
	if errors.Is(err, os.ErrExist) {
		return root.Chmod(name, mode)
	}
	return err
}

func prepare(root *os.Root, name string) error {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func extract(root *os.Root, name string, r io.Reader, mode os.FileMode) error {
	if err := prepare(root, name); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
