package config

import (
	"strings"

	"go.yaml.in/yaml/v4"
)

// backendWords are the backends that configurations may name.
const backendWords = "amddevcloud|aws|azure|cloudrift|crusoe|cudo|datacrunch|daytona|digitalocean|dstack|gcp|hotaisle|jarvislabs|kubernetes|lambda|lium|remote|nebius|oci|runpod|seeweb|tensordock|vastai|verda|vultr|slurm"

// BackendWords are the backends that clients know, in the order of messages. The built-in
// "local" is none of them.
func BackendWords() []string { return strings.Split(backendWords, "|") }

// BackendChoice is the list of backends as messages have it.
func BackendChoice() string { return orList(BackendWords()) }

// EncodeYAML writes a value as block YAML, leaving out what is null.
func EncodeYAML(v map[string]any) ([]byte, error) {
	set := map[string]any{}
	for k, x := range v {
		if x != nil {
			set[k] = x
		}
	}
	return yaml.Marshal(set)
}
