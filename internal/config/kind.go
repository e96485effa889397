package config

import "path"

// Kind is what a file is.
type Kind int

// The kinds of files that people write.
const (
	KindConfiguration Kind = iota // also of files that do not tell
	KindProfiles
	KindServer
)

// KindOf tells a file by its name (with slashes) or, when that says nothing, by its top-level
// keys. It does not say that the file is valid.
func KindOf(file string, data []byte) Kind {
	switch path.Base(file) {
	case "profiles.yml", "profiles.yaml":
		return KindProfiles
	}
	n, err := parseYAML(file, data)
	switch {
	case err != nil || n.get("type") != nil:
		return KindConfiguration
	case n.get("profiles") != nil:
		return KindProfiles
	case n.get("projects") != nil:
		return KindServer
	}
	return KindConfiguration
}
