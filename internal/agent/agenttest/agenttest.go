// Package agenttest builds the agent's binary for tests that start it.
package agenttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Main builds the agent, runs a package's tests with its path, and returns their exit
// code. It is the body of a TestMain.
func Main(m *testing.M, use func(binary string)) int {
	dir, err := os.MkdirTemp("", "agent-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // jobs of other users run it too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	path := filepath.Join(dir, "dstack-agent")
	build := exec.Command("go", "build", "-o", path, "dstack/cmd/dstack-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the agent: %v\n%s", err, out)
		return 1
	}
	use(path)
	return m.Run()
}
