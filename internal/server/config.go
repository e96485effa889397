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
		Keys []fileKey `json:"keys" cfg:"req"`
	} `json:"encryption"`
	DefaultPermissions *struct {
		CreateProjects  *bool `json:"allow_non_admins_create_projects"`
		ManageSSHFleets *bool `json:"allow_non_admins_manage_ssh_fleets"`
		ManagersSecrets *bool `json:"allow_managers_manage_secrets"`
	} `json:"default_permissions"`
	Plugins []string `json:"plugins" cfg:"opt"`
}

// fileKey is a key that tokens, private keys and secrets are stored under.
type fileKey struct {
	Type   string  `json:"type" cfg:"req,enum=identity|aes"`
	Name   *string `json:"name"`
	Secret *string `json:"secret"`
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
		for i, k := range c.Encryption.Keys {
			key, err := k.key()
			if err != nil {
				return nil, fmt.Errorf("config.yml: encryption.keys[%d]: %w", i, err)
			}
			keys = append(keys, key)
		}
	}
	return crypt.New(keys)
}

const alphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

func (k fileKey) key() (crypt.Key, error) {
	if k.Type == "identity" {
		return crypt.Key{}, nil
	}
	if k.Name == nil || k.Secret == nil {
		return crypt.Key{}, errors.New("an aes key needs name and secret")
	}
	if *k.Name == "" || strings.Trim(*k.Name, alphanumeric) != "" {
		return crypt.Key{}, errors.New("Key name must be alphanumeric")
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(*k.Secret)
	if err != nil {
		return crypt.Key{}, errors.New("Failed to decode secret from base64")
	}
	if len(secret) != 32 {
		return crypt.Key{}, fmt.Errorf("AES key must be 32 bytes. Got %d bytes", len(secret))
	}
	return crypt.Key{Name: *k.Name, Secret: secret}, nil
}

// projectQuota bounds the projects of one user (DSTACK_USER_PROJECT_DEFAULT_QUOTA).
const projectQuota = 10

func (c fileConfig) permissions(quota int) project.Permissions {
	p := project.Permissions{CreateProjects: true, Quota: quota, ManageSSHFleets: true}
	if d := c.DefaultPermissions; d != nil {
		for to, from := range map[*bool]*bool{&p.CreateProjects: d.CreateProjects, &p.ManageSSHFleets: d.ManageSSHFleets, &p.ManagersSecrets: d.ManagersSecrets} {
			if from != nil {
				*to = *from
			}
		}
	}
	return p
}
