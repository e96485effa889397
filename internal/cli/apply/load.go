package apply

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/config"
)

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 4 << 20

// A File is a configuration and where it came from.
type File struct {
	config.Any
	Path string // as the server is told: relative to the working directory, "-" for standard input
	dir  string // that relative paths in it count from
}

// Name is the name in the configuration, "" if it has none.
func (f *File) Name() string { return format.Text(*f.name()) }

// rename gives the configuration another name.
func (f *File) rename(name string) { *f.name() = &name }

func (f *File) name() **string {
	switch {
	case f.Run != nil:
		return &f.Run.Common().Name
	case f.Fleet != nil:
		return &f.Fleet.Name
	case f.Volume != nil:
		return &f.Volume.Name
	case f.Gateway != nil:
		return &f.Gateway.Name
	}
	return new(*string)
}

// Load reads the configuration file that the user named: "-" is standard input, "" the default file.
// All that is wrong with its content comes back as one [config.Errors].
func Load(p *program.Program, name string) (File, error) {
	f, data, err := Read(p, name)
	if err == nil {
		f.Any, err = config.Parse(f.Path, data)
	}
	return f, err
}

// Read is the part of [Load] before the content is looked at.
func Read(p *program.Program, name string) (File, []byte, error) {
	wd, err := p.WorkDir()
	if err != nil {
		return File{}, nil, fmt.Errorf("find the working directory: %w", err)
	}
	if name == "-" {
		data, err := read(p.In, "-")
		return File{Path: "-", dir: wd}, data, err
	}
	path := p.Path(wd, name)
	if name == "" {
		if path, err = defaultFile(wd); err != nil {
			return File{}, nil, err
		}
	}
	r, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, nil, fmt.Errorf("Configuration file %s does not exist", name)
	}
	if err != nil {
		return File{}, nil, fmt.Errorf("Failed to load configuration from %s: %w", path, err)
	}
	defer func() { _ = r.Close() }() // only read
	shown := path
	if rel, err := filepath.Rel(wd, path); err == nil {
		shown = filepath.ToSlash(rel)
	}
	data, err := read(r, shown)
	return File{Path: shown, dir: filepath.Dir(path)}, data, err
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

func read(r io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("Failed to load configuration from %s: %w", name, err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("Configuration file %s is larger than %d bytes", name, maxConfig)
	}
	return data, nil
}
