package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/bluekeyes/go-gitdiff/gitdiff"
)

// The kinds of a mode in git's diffs.
const (
	gitKind    = 0o170000
	gitLink    = 0o120000
	gitModule  = 0o160000
	fileMode   = os.FileMode(0o644)
	folderMode = os.FileMode(0o755)
)

// applyDiff changes the tree below dir as a diff of git says: text and binary changes, new,
// removed, renamed and copied files, modes and links. Nothing outside dir is touched.
func applyDiff(r io.Reader, dir string) error {
	files, _, err := gitdiff.Parse(r)
	if err != nil {
		return fmt.Errorf("read the diff: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		if f.OldMode&gitKind == gitModule || f.NewMode&gitKind == gitModule {
			continue // the commit of a submodule: it is fetched, not patched
		}
		if err := applyFile(root, f); err != nil {
			return fmt.Errorf("apply the diff to %s: %w", f.NewName+onlyIf(f.IsDelete, f.OldName), err)
		}
	}
	return nil
}

func onlyIf(yes bool, s string) string {
	if yes {
		return s
	}
	return ""
}

func applyFile(root *os.Root, f *gitdiff.File) error {
	var old []byte
	mode := fileMode
	link := false
	if !f.IsNew {
		var err error
		if old, mode, link, err = readEntry(root, f.OldName); err != nil {
			return err
		}
	}
	var changed bytes.Buffer
	if err := gitdiff.Apply(&changed, bytes.NewReader(old), f); err != nil {
		return err
	}
	if f.IsDelete || f.IsRename {
		if err := root.Remove(f.OldName); err != nil {
			return err
		}
	}
	if f.IsDelete {
		return nil
	}
	if f.NewMode != 0 {
		link = f.NewMode&gitKind == gitLink
		mode = f.NewMode.Perm()
	}
	return writeEntry(root, f.NewName, changed.Bytes(), mode, link)
}

// readEntry reads a file, or what a link points to.
func readEntry(root *os.Root, name string) (data []byte, mode os.FileMode, link bool, err error) {
	st, err := root.Lstat(name)
	if err != nil {
		return nil, 0, false, err
	}
	if st.Mode()&os.ModeSymlink != 0 {
		target, err := root.Readlink(name)
		return []byte(target), fileMode, true, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, false, errors.New("not a file")
	}
	data, err = root.ReadFile(name)
	return data, st.Mode().Perm(), false, err
}

func writeEntry(root *os.Root, name string, data []byte, mode os.FileMode, link bool) error {
	if err := root.MkdirAll(path.Dir(name), folderMode); err != nil {
		return err
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if link {
		return root.Symlink(string(data), name)
	}
	if mode == 0 {
		mode = fileMode
	}
	if err := root.WriteFile(name, data, mode); err != nil {
		return err
	}
	return root.Chmod(name, mode)
}
