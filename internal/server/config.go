package server

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dstack/internal/config"
	"dstack/internal/crypt"
	"dstack/internal/project"
)

// fileConfig is config.yml (configurations 13).
type fileConfig struct {
	Projects []struct {
		Name     string           `json:"name" cfg:"req"`
		Backends []map[string]any `json:"backends" cfg:"opt"`
	} `json:"projects" cfg:"req"`
	Encryption *struct {
		Keys []struct {
			Type   string  `json:"type" cfg:"req,enum=identity|aes"`
			Name   *string `json:"name"`
			Secret *string `json:"secret"`
		} `json:"keys" cfg:"req"`
	} `json:"encryption"`
	DefaultPermissions *struct {
		CreateProjects  *bool `json:"allow_non_admins_create_projects"`
		ManageSSHFleets *bool `json:"allow_non_admins_manage_ssh_fleets"`
		ManagersSecrets *bool `json:"allow_managers_manage_secrets"`
	} `json:"default_permissions"`
	Plugins []string `json:"plugins" cfg:"opt"`
}

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
func loadFile(dir string) (fileConfig, error) {
	var c fileConfig
	path := filepath.Join(dir, "config.yml")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		data = fmt.Appendf(nil, defaultFile, crypt.NewSecret())
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return c, fmt.Errorf("read the server's configuration: %w", err)
	}
	if err := config.DecodeYAML(path, data, &c); err != nil {
		return c, err
	}
	return c, nil
}

// box makes the encryption of the configured keys.
func (c fileConfig) box() (*crypt.Box, error) {
	var keys []crypt.Key
	if c.Encryption != nil {
		for _, k := range c.Encryption.Keys {
			if k.Type == "identity" {
				continue
			}
			if k.Name == nil || k.Secret == nil {
				return nil, errors.New("encryption.keys: an aes key needs name and secret")
			}
			if strings.Trim(*k.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
				return nil, errors.New("Key name must be alphanumeric")
			}
			secret, err := base64.StdEncoding.DecodeString(*k.Secret)
			if err != nil {
				return nil, errors.New("Failed to decode secret from base64")
			}
			keys = append(keys, crypt.Key{Name: *k.Name, Secret: secret})
		}
	}
	return crypt.New(keys)
}

func (c fileConfig) permissions() project.Permissions {
	p := project.Permissions{CreateProjects: true, ManageSSHFleets: true}
	if d := c.DefaultPermissions; d != nil {
		for to, from := range map[*bool]*bool{&p.CreateProjects: d.CreateProjects, &p.ManageSSHFleets: d.ManageSSHFleets, &p.ManagersSecrets: d.ManagersSecrets} {
			if from != nil {
				*to = *from
			}
		}
	}
	return p
}
