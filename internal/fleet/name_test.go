package fleet

import (
	"regexp"
	"testing"

	"dstack/internal/config"
)

// Names that we make have the recorded format: at most 21 characters, so that an instance's or a
// run's name with its numbers stays a name.
func TestGeneratedName(t *testing.T) {
	format := regexp.MustCompile(`^[a-z]+-[a-z]+$`)
	for range 1000 {
		name := GeneratedName()
		if !format.MatchString(name) || len(name) > 21 {
			t.Errorf("name %q", name)
		}
		if err := config.CheckName(name + "-1"); err != nil {
			t.Error(err)
		}
	}
}
