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

// loadFile reads config.yml, writing a first one when there is none.
func loadFile(dir string, log *slog.Logger) (config.ServerFile, error) {
	path := filepath.Join(dir, "config.yml")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		data = fmt.Appendf(nil, defaultFile, crypt.NewSecret())
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return config.ServerFile{}, fmt.Errorf("read the server's configuration: %w", err)
	}
	f, err := config.ParseServerFile(path, data)
	for _, w := range f.Warnings {
		log.Warn(w.Msg, "file", w.File, "line", w.Line, "path", w.Path())
	}
	return f, err
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
