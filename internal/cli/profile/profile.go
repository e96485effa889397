// Package profile chooses the profile of a run.
package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"dstack/internal/cli/override"
	"dstack/internal/cli/program"
	"dstack/internal/config"
)

// maxSize bounds a file of profiles, in bytes.
const maxSize = 1 << 20

// Load returns the profile that options and environment name, or else the default one.
func Load(p *program.Program, o override.Flags) (*config.Profile, error) {
	name, none, err := o.Profile(p)
	if err != nil {
		return nil, err
	}
	if none {
		return &config.Profile{Name: "no-profile"}, nil
	}
	return Find(p, name)
}

// Find returns the named profile, or the default one if name is empty: of the working directory, or else of the home
// directory.
func Find(p *program.Program, name string) (*config.Profile, error) {
	wd, err := p.WorkDir()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(wd, ".dstack"), string(p.Dir())} {
		found, err := inDir(dir, name)
		if found != nil || err != nil {
			return found, err
		}
	}
	if name != "" {
		return nil, fmt.Errorf("No such profile: %s", name)
	}
	return &config.Profile{Name: "default"}, nil
}

func inDir(dir, name string) (*config.Profile, error) {
	for _, base := range []string{"profiles.yml", "profiles.yaml"} {
		path := filepath.Join(dir, base)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read profiles: %w", err)
		}
		if info.Size() > maxSize {
			return nil, fmt.Errorf("%s is larger than %d bytes", path, maxSize)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read profiles: %w", err)
		}
		ps, err := config.ParseProfiles(path, data)
		if err != nil {
			return nil, err
		}
		for _, p := range ps.Profiles {
			if name != "" && p.Name == name || name == "" && p.Default {
				return &p, nil
			}
		}
		return nil, nil
	}
	return nil, nil
}
