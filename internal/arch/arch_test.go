// Package arch holds the test that keeps the layers apart; see docs/architecture.md.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// layers goes from top to bottom; a package may import those of the lines below its own, and what is in its
// own folder. Folders are below internal where they are not at the top.
var layers = [][]string{
	{"cmd", "bench", "e2e", "sim"},
	{"cli", "server"},
	{"proxy", "hub"},
	{"run"},
	{"gateway", "volume"},
	{"fleet"},
	{"instance"},
	{"cost", "export", "repo", "secret"},
	{"project"},
	{"user"},
	{"logstore", "catalog", "blobstore"},
	{"event", "metrics", "ledger", "scheduler", "template", "jobspec", "object"},
	{"host", "engine", "backend", "agent"},
	{"nebiusclient", "gcpclient", "awsclient", "api", "store"},
	{ // these know nobody
		"agentapi", "agentbin", "apidoc", "config", "crypt", "encoded", "exposition", "httpfault", "jinja", "jwt",
		"offer", "recorded", "router", "sshkey", "version",
	},
}

// never says which packages of lower lines a package must not know either, by prefix below dstack/.
var never = map[string][]string{
	"cmd/dstack-agent":           {"internal/server", "internal/store", "internal/cli", "internal/run", "internal/config"},
	"internal/cli":               {"internal/store", "internal/engine", "internal/ledger", "internal/run", "internal/fleet", "internal/instance", "internal/host"}, // talks HTTP
	"internal/agent":             {"internal/store", "internal/api", "internal/config"},                                                                            // goes onto hosts
	"internal/proxy":             {"internal/host"},
	"internal/hub":               {"internal/store"},
	"internal/logstore":          {"internal/api"},
	"internal/catalog/collect":   {"internal/ledger", "internal/store", "internal/engine"},  // works without a server
	"internal/catalog/pricelist": {"internal/backend", "internal/ledger", "internal/store"}, // asks nobody
	"internal/scheduler":         {"internal/store", "internal/engine"},                     // pure
	"internal/jobspec":           {"internal/store", "internal/engine"},                     // pure
	"internal/template":          {"internal/store"},
	"internal/object":            {"internal/store", "internal/engine"}, // services know no database
	"internal/host":              {"internal/store"},
	"internal/engine":            {"internal/api"},   // knows no domain
	"internal/backend":           {"internal/store"}, // clouds know no database
}

func TestLayers(t *testing.T) {
	at := map[string]int{} // lines
	for n, line := range layers {
		for _, folder := range line {
			at[folder] = n
		}
	}
	root := filepath.Join("..", "..")
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		if _, placed := at[folder(pkg)]; !placed && !found[folder(pkg)] {
			t.Errorf("%s has no layer", pkg)
		}
		found[folder(pkg)] = true
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range f.Imports {
			name, _ := strconv.Unquote(imp.Path.Value)
			if target, ours := strings.CutPrefix(name, "dstack/"); ours && target != pkg {
				check(t, at, pkg, target)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for folder := range at {
		if !found[folder] {
			t.Errorf("layers have %s, which has no code", folder)
		}
	}
}

// The map for newcomers names every package.
func TestMap(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, _ := strings.Cut(string(data), "## Map")
	chapter, _, _ = strings.Cut(chapter, "## ")
	named := strings.FieldsFunc(chapter, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	for _, line := range layers {
		for _, folder := range line {
			if !slices.Contains(named, folder) {
				t.Errorf("the map of CONTRIBUTING.md does not have %s", folder)
			}
		}
	}
}

// folder is what of a package's path has a layer.
func folder(pkg string) string {
	folder, _, _ := strings.Cut(strings.TrimPrefix(pkg, "internal/"), "/")
	return folder
}

func check(t *testing.T, at map[string]int, pkg, target string) {
	if from, to := folder(pkg), folder(target); from != to && at[from] >= at[to] {
		t.Errorf("%s imports %s, which is not of a layer below", pkg, target)
	}
	for layer, forbidden := range never {
		if within(pkg, layer) && !within(target, layer) && slices.ContainsFunc(forbidden, func(f string) bool { return within(target, f) }) {
			t.Errorf("%s imports %s", pkg, target)
		}
	}
}

// within says that a package is that of a folder or below it.
func within(pkg, folder string) bool { return pkg == folder || strings.HasPrefix(pkg, folder+"/") }
