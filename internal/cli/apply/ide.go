package apply

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// ideTimeout bounds the question for an editor's version.
const ideTimeout = 10 * time.Second

// detectIDE fills the version of the editor on this machine in, so that its server part is installed beforehand.
func (o Options) detectIDE(ctx context.Context, run *config.AnyRun) {
	dev := run.DevEnvironment
	if dev == nil || dev.IDE == nil || dev.Version != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, ideTimeout)
	defer cancel()
	name, command, version := "", "", ""
	switch *dev.IDE {
	case "vscode":
		name, command = "VS Code", "code"
		version = commit(ctx, command)
	case "cursor":
		name, command = "Cursor", "cursor"
		version = commit(ctx, command)
	case "windsurf":
		name, command = "Windsurf", "surf"
		version = windsurf()
	default:
		return
	}
	if version == "" {
		o.Say(o.Paint(term.Secondary, "Unable to detect the "+name+" version and pre-install extensions. Fix by opening Command Palette, "+
			"executing Shell Command: Install '"+command+"' command in PATH, and restarting terminal.\n"))
		return
	}
	dev.Version = &version
}

// commit is the second line of what the editor says about its version.
func commit(ctx context.Context, command string) string {
	out, err := exec.CommandContext(ctx, command, "--version").Output()
	if err != nil {
		return ""
	}
	lines := strings.Split(string(out), "\n")
	if len(lines) < 2 {
		return ""
	}
	return strings.TrimSpace(lines[1])
}

// windsurf finds the description of the product above the executable.
func windsurf() string {
	path, err := exec.LookPath("windsurf")
	if err != nil {
		return ""
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return ""
	}
	dir := filepath.Dir(path)
	for range 6 {
		for _, res := range []string{"resources", "Resources"} {
			data, err := os.ReadFile(filepath.Join(dir, res, "app", "product.json"))
			if err != nil {
				continue
			}
			var p struct{ WindsurfVersion, Commit string }
			if json.Unmarshal(data, &p) == nil && p.WindsurfVersion != "" && p.Commit != "" {
				return p.WindsurfVersion + "@" + p.Commit
			}
		}
		dir = filepath.Dir(dir)
	}
	return ""
}
