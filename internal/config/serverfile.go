package config

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// ServerFile is the server's config.yml (configurations 13).
type ServerFile struct {
	Projects           []ServerProject    `json:"projects" cfg:"req"`
	Encryption         *Encryption        `json:"encryption"`
	DefaultPermissions *ServerPermissions `json:"default_permissions"`
	Plugins            []string           `json:"plugins" cfg:"opt"`

	// Warnings are what the file may not mean as it is written.
	Warnings []Problem `json:"-"`
}

// ServerProject is a project that the server makes, with backends that the file keeps.
type ServerProject struct {
	Name     string            `json:"name" cfg:"req"`
	Backends []BackendSettings `json:"backends" cfg:"opt"`
}

// BackendSettings are what is written of one backend. Only its type is checked here: the
// rest is the backend's own.
type BackendSettings map[string]any

func (b *BackendSettings) decodeNode(d *decoder, n *node, loc []any) {
	if _, ok := d.tag(n, loc, "type", "aws", "azure", "cloudrift", "crusoe", "cudo", "verda", "datacrunch", "daytona", "amddevcloud", "digitalocean", "gcp", "hotaisle",
		"jarvislabs", "kubernetes", "lambda", "lium", "oci", "nebius", "runpod", "seeweb", "tensordock", "vastai", "vultr", "slurm", "local"); ok {
		*b, _ = n.input().(map[string]any)
	}
}

// Encryption are the keys that tokens, private keys and secrets are stored under. The first
// one encrypts, all of them decrypt.
type Encryption struct {
	Keys []EncryptionKey `json:"keys" cfg:"req"`
}

// EncryptionKey is an AES key of 32 bytes, or none: the identity stores plain text.
type EncryptionKey struct {
	Identity bool
	Name     string
	Secret   []byte
}

type aesKey struct {
	Type   string `json:"type" cfg:"req,enum=aes"`
	Name   string `json:"name" cfg:"req"`
	Secret string `json:"secret" cfg:"req"`
}

// identityKey has its type only.
type identityKey struct {
	Type string `json:"type" cfg:"req,enum=identity"`
}

// MarshalJSON writes the fields of the key's type.
func (k EncryptionKey) MarshalJSON() ([]byte, error) {
	if k.Identity {
		return json.Marshal(identityKey{"identity"})
	}
	return json.Marshal(aesKey{"aes", k.Name, base64.StdEncoding.EncodeToString(k.Secret)})
}

func (k *EncryptionKey) decodeNode(d *decoder, n *node, loc []any) {
	typ, ok := d.tag(n, loc, "type", "aes", "identity")
	if !ok {
		return
	}
	loc = at(loc, typ)
	if k.Identity = typ == "identity"; k.Identity {
		var p identityKey
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		return
	}
	var p aesKey
	d.structure(n, loc, reflect.ValueOf(&p).Elem())
	k.Name = p.Name
	if d.clean(loc, "name") && (p.Name == "" || strings.ContainsFunc(p.Name, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })) {
		d.reject(n.get("name"), at(loc, "name"), "Key name must be alphanumeric")
	}
	if !d.clean(loc, "secret") {
		return
	}
	var err error
	k.Secret, err = base64.StdEncoding.Strict().DecodeString(p.Secret)
	switch {
	case err != nil || strings.ContainsAny(p.Secret, "\r\n"):
		d.reject(n.get("secret"), at(loc, "secret"), "Failed to decode secret from base64")
	case len(k.Secret) != 32:
		d.reject(n.get("secret"), at(loc, "secret"), "AES key must be 32 bytes. Got %d bytes", len(k.Secret))
	}
}

// ServerPermissions are what users may do who do not administrate the server.
type ServerPermissions struct {
	CreateProjects  bool `json:"allow_non_admins_create_projects"`
	ManageSSHFleets bool `json:"allow_non_admins_manage_ssh_fleets"`
	ManagersSecrets bool `json:"allow_managers_manage_secrets"`
}

func (p *ServerPermissions) setDefaults() { *p = DefaultServerPermissions() }

// DefaultServerPermissions are those of a file that does not name any.
func DefaultServerPermissions() ServerPermissions {
	return ServerPermissions{CreateProjects: true, ManageSSHFleets: true}
}

// ParseServerFile reads config.yml. All problems are returned at once as *Errors.
func ParseServerFile(file string, data []byte) (ServerFile, error) {
	var f ServerFile
	n, err := readYAML(file, data, &f)
	if err != nil {
		return ServerFile{}, err
	}
	f.Warnings = append(warnings(file, n), f.twice(file, n)...)
	return f, nil
}

// twice lists projects, and backends of a project, that are there more than once.
func (f ServerFile) twice(file string, root *node) []Problem {
	var found []Problem
	say := func(n *node, loc []any, what string) {
		found = append(found, Problem{File: file, Line: n.line, Col: n.col, Loc: loc, Type: "warning", Msg: what + " is there more than once: the last one counts"})
	}
	projects := map[string]bool{}
	for i, p := range f.Projects {
		n, loc := root.get("projects").list[i], []any{"projects", i}
		if projects[p.Name] {
			say(n, loc, "the project "+p.Name)
		}
		projects[p.Name] = true
		types := map[string]bool{}
		for j, b := range p.Backends {
			typ := fmt.Sprint(b["type"])
			if types[typ] {
				say(n.get("backends").list[j], append(loc, "backends", j), "the backend "+typ)
			}
			types[typ] = true
		}
	}
	return found
}

// WithoutCredentials is a copy of the file that can be shown: of backends it has the types,
// of keys the types and names.
func (f ServerFile) WithoutCredentials() ServerFile {
	f.Projects = append([]ServerProject{}, f.Projects...)
	for i, p := range f.Projects {
		var backends []BackendSettings
		for _, b := range p.Backends {
			backends = append(backends, BackendSettings{"type": b["type"]})
		}
		f.Projects[i].Backends = backends
	}
	if f.Encryption != nil {
		e := Encryption{Keys: append([]EncryptionKey{}, f.Encryption.Keys...)}
		for i := range e.Keys {
			e.Keys[i].Secret = nil
		}
		f.Encryption = &e
	}
	return f
}
