// Command generate writes the embedded list of prices from the files of facts, and prints what
// became of them: `make catalog`.
package main

import (
	"bytes"
	"fmt"
	"os"

	"dstack/internal/catalog/facts"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: generate DIRECTORY FILE")
		os.Exit(2)
	}
	if err := generate(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func generate(dir, file string) error {
	list, report, err := facts.Build(os.DirFS(dir))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := list.Encode(&out); err != nil {
		return err
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the list of prices: %w", err)
	}
	fmt.Printf("%s%s: %d rows in %d bytes\n", report, file, list.Len(), out.Len())
	return nil
}
