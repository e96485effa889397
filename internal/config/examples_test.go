package config

import (
	"os"
	"path/filepath"
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
