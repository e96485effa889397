package server

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"dstack/internal/config"
	"dstack/internal/crypt"
	"dstack/internal/project"
)

// defaultFile is what a first start writes.
const defaultFile = `# The server reads this file when it starts.
projects:
  - name: main
    backends:
      # Runs jobs on this machine. Remove it when members of the project must not.
      - type: local
encryption:
  keys:
    - type: aes
      name: key1
      secret: %s
`

// file is config.yml as it was read.
type file struct {
	config.ServerFile
	path  string // "" without a file
	fresh bool   // this start wrote it
}

// loadFile reads config.yml, writing a first one when there is none. With none it does neither.
func loadFile(dir string, none bool, log *slog.Logger) (file, error) {
	if none {
		return file{}, nil
	}
	f := file{path: filepath.Join(dir, "config.yml")}
	data, err := os.ReadFile(f.path)
	if errors.Is(err, os.ErrNotExist) {
		f.fresh = true
		data = fmt.Appendf(nil, defaultFile, crypt.NewSecret())
		err = writeWhole(f.path, data)
	}
	if err != nil {
		return f, fmt.Errorf("read the server's configuration: %w", err)
	}
	f.ServerFile, err = config.ParseServerFile(f.path, data)
	for _, w := range f.Warnings {
		log.Warn(w.Msg, "file", w.File, "line", w.Line, "path", w.Path())
	}
	return f, err
}

// writeWhole writes a file that is there whole or not at all: the key in it must not get lost
// once something was encrypted with it.
func writeWhole(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".config-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // it was renamed, or is of no use
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// explain says what to do about a database that the keys of the file do not open. A file
// with a new key does not help then, and is taken back.
func (f file) explain(err error) error {
	switch {
	case !errors.Is(err, crypt.ErrSealed):
		return err
	case f.fresh:
		_ = os.Remove(f.path) // the next start says the same
		return fmt.Errorf("the database is encrypted and %s, which held the keys, is missing: restore it: %w", f.path, err)
	case f.path == "":
		return fmt.Errorf("the database is encrypted, and config.yml, which holds the keys, is not read: unset DSTACK_SERVER_CONFIG_DISABLED: %w", err)
	}
	return fmt.Errorf("the database is encrypted with a key that is not in encryption.keys of %s: add it, behind the others: %w", f.path, err)
}

// box makes the encryption of the configured keys.
func box(e *config.Encryption) (*crypt.Box, error) {
	var keys []crypt.Key
	if e != nil {
		for _, k := range e.Keys {
			keys = append(keys, crypt.Key{Name: k.Name, Secret: k.Secret})
		}
	}
	return crypt.New(keys)
}

// projectQuota bounds the projects of one user (DSTACK_USER_PROJECT_DEFAULT_QUOTA).
const projectQuota = 10

func permissions(p *config.ServerPermissions, quota int) project.Permissions {
	if p == nil {
		def := config.DefaultServerPermissions()
		p = &def
	}
	return project.Permissions{CreateProjects: p.CreateProjects, Quota: quota, ManageSSHFleets: p.ManageSSHFleets, ManagersSecrets: p.ManagersSecrets}
}
