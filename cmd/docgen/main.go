// Command docgen writes the reference pages of docs/reference from the code. Run it by
// `make generate`; a test fails when the pages are not what it would write.
package main

//go:generate go run . ../../docs/reference

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	dir := "docs/reference"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := write(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// write makes every page.
func write(dir string) error {
	pages, err := Pages()
	if err != nil {
		return err
	}
	for name, text := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write the reference: %w", err)
		}
	}
	return nil
}

// Pages are the generated pages by file name.
func Pages() (map[string]string, error) {
	configuration, err := configurationPage()
	if err != nil {
		return nil, err
	}
	api, err := apiPage()
	if err != nil {
		return nil, err
	}
	return map[string]string{"accelerators.md": acceleratorsPage(), "cli.md": cliPage(), "configuration.md": configuration, "http-api.md": api}, nil
}
