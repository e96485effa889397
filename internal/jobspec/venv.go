package jobspec

import (
	"fmt"
	"slices"
	"strings"

	"dstack/internal/config"
)

// venv makes the Python environment of the default image.
func venv(c *config.RunCommon) []string {
	python := "3.11"
	if c.Python != nil {
		python = string(*c.Python)
	}
	return []string{
		"export DSTACK_VENV_DIR=/dstack/venv",
		`echo "export DSTACK_VENV_DIR=/dstack/venv" | sudo tee -a /dstack/profile >/dev/null`,
		`sudo rm -rf "$DSTACK_VENV_DIR"`,
		`sudo install -d -o "$(id -u)" -g "$(id -g)" "$DSTACK_VENV_DIR"`,
		fmt.Sprintf(`uv venv -q --clear --prompt dstack -p %s --seed "$DSTACK_VENV_DIR"`, python),
		`. "$DSTACK_VENV_DIR/bin/activate"`,
		`echo '. "$DSTACK_VENV_DIR/bin/activate"' | sudo tee -a /dstack/profile >/dev/null`,
	}
}

// WithoutVenv cuts what jobCommands puts before the commands of a run with the default image.
// It goes by the first and the last line alone: what is between depends on what the run asked
// for when its job was made, which may have changed since.
func WithoutVenv(argv []string) []string {
	out, lines := slices.Clone(argv), venv(&config.RunCommon{})
	if n := len(out); n > 0 && strings.HasPrefix(out[n-1], lines[0]+" && ") {
		if _, own, ok := strings.Cut(out[n-1], lines[len(lines)-1]+" && "); ok {
			out[n-1] = own
		}
	}
	return out
}
