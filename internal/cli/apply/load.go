package apply

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"dstack/internal/cli/program"
	"dstack/internal/config"
)

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 4 << 20

// A File is a configuration and where it came from.
type File struct {
	config.Any
	path string // as the server is told: relative to the working directory, "-" for standard input
	dir  string // that relative paths in it count from
}

// Name is the name in the configuration, "" if it has none.
func (f *File) Name() string {
	var name *string
	switch {
	case f.Run != nil:
		name = f.Run.Common().Name
	case f.Fleet != nil:
		name = f.Fleet.Name
	case f.Volume != nil:
		name = f.Volume.Name
	case f.Gateway != nil:
		name = f.Gateway.Name
	}
	return deref(name)
}

// Load reads the configuration file that the user named: "-" is standard input, "" the default file.
// All that is wrong with its content comes back as one [config.Errors].
func Load(p *program.Program, name string) (File, error) {
	wd, err := p.WorkDir()
	if err != nil {
		return File{}, fmt.Errorf("find the working directory: %w", err)
	}
	if name == "-" {
		return parse(p.In, File{path: "-", dir: wd}, "-")
	}
	path := p.Path(wd, name)
	if name == "" {
		if path, err = defaultFile(wd); err != nil {
			return File{}, err
		}
	}
	r, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, fmt.Errorf("Configuration file %s does not exist", name)
	}
	if err != nil {
		return File{}, fmt.Errorf("Failed to load configuration from %s: %w", path, err)
	}
	defer func() { _ = r.Close() }() // only read
	shown := path
	if rel, err := filepath.Rel(wd, path); err == nil {
		shown = filepath.ToSlash(rel)
	}
	return parse(r, File{path: shown, dir: filepath.Dir(path)}, shown)
}

func defaultFile(dir string) (string, error) {
	for _, base := range []string{".dstack.yml", ".dstack.yaml"} {
		path := filepath.Join(dir, base)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("No configuration file specified via `-f` and no default .dstack.yml configuration found")
}

func parse(r io.Reader, f File, name string) (File, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return f, fmt.Errorf("Failed to load configuration from %s: %w", name, err)
	}
	if len(data) > maxConfig {
		return f, fmt.Errorf("Configuration file %s is larger than %d bytes", name, maxConfig)
	}
	f.Any, err = config.Parse(name, data)
	return f, err
}
