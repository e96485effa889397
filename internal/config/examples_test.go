package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The examples for users are valid and mean what they seem to.
func TestExamples(t *testing.T) {
	schemas := map[string]interface{ Validate(v any) error }{"configuration": compileSchema(t, "configuration"), "profiles": compileSchema(t, "profiles")}
	found := map[string]int{}
	for pattern, kind := range map[string]string{"../../examples/*/.dstack.yml": "configuration", "../../examples/*/.dstack/profiles.yml": "profiles"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			found[kind]++
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var a Any
			if kind == "profiles" {
				_, err = ParseProfiles(file, data)
			} else {
				a, err = Parse(file, data)
			}
			if err != nil || len(a.Warnings) > 0 {
				t.Errorf("%v %v", err, a.Warnings)
				continue
			}
			if err := schemas[kind].Validate(plainOf(t, file, data)); err != nil {
				t.Error(err)
			}
		}
	}
	if found["configuration"] < 4 || found["profiles"] < 1 {
		t.Errorf("examples are missing: %v", found)
	}
}

var (
	yamlBlock = regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```$")
	ofType    = regexp.MustCompile(`(?m)^type: `)
	ofExample = regexp.MustCompile(`^# (examples/\S+)\n`)
)

// What users copy from pages is valid, too. A block that names a file of the examples is that file.
func TestPages(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../../README.md", "../../docs/*.md", "../../docs/*/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, files...)
	}
	schema, shown := compileSchema(t, "configuration"), []string{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			block := strings.TrimPrefix(strings.ReplaceAll("\n"+m[2], "\n"+m[1], "\n"), "\n")
			if !ofType.MatchString(block) { // part of one, or of the server's
				continue
			}
			if name := ofExample.FindStringSubmatch(block); name != nil {
				example, err := os.ReadFile("../../" + name[1])
				if err != nil || name[0]+string(example) != block {
					t.Errorf("%s: the block is not %s (%v)", page, name[1], err)
				}
				shown = append(shown, name[1])
			}
			a, err := Parse(page, []byte(block))
			if err != nil || len(a.Warnings) > 0 {
				t.Errorf("%v %v in\n%s", err, a.Warnings, block)
				continue
			}
			if err := schema.Validate(plainOf(t, page, []byte(block))); err != nil {
				t.Errorf("%s: %v in\n%s", page, err, block)
			}
		}
	}
	for _, name := range []string{"cloud-fleet", "mpi", "multi-node", "nightly"} {
		if !slices.Contains(shown, "examples/"+name+"/.dstack.yml") {
			t.Errorf("no page shows the example %s", name)
		}
	}
}
