// Package arch holds the test that keeps the layers apart; see docs/architecture.md.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// never says which packages a package must not know, by prefix below dstack/.
var never = map[string][]string{
	"internal/config":            {"internal/", "cmd/"},                                                                                                                               // the language of files knows nobody
	"internal/api":               {"internal/server", "internal/cli", "internal/run", "internal/fleet", "internal/instance", "internal/store", "internal/agent/"},                     // types only
	"internal/cli":               {"internal/server", "internal/store", "internal/engine", "internal/ledger", "internal/run", "internal/fleet", "internal/instance", "internal/host"}, // talks HTTP
	"internal/agent":             {"internal/server", "internal/store", "internal/cli", "internal/run", "internal/config", "internal/api"},                                            // goes onto hosts
	"internal/agentapi":          {"internal/"},
	"internal/engine":            {"internal/run", "internal/fleet", "internal/instance", "internal/server", "internal/ledger", "internal/api"}, // knows no domain
	"internal/store":             {"internal/run", "internal/fleet", "internal/instance", "internal/server", "internal/ledger", "internal/engine", "internal/api"},
	"internal/backend":           {"internal/run", "internal/fleet", "internal/instance", "internal/server", "internal/store", "internal/engine", "internal/ledger"}, // clouds know no database
	"internal/instance":          {"internal/run", "internal/fleet", "internal/server"},
	"internal/cost":              {"internal/run", "internal/fleet", "internal/instance", "internal/gateway", "internal/volume", "internal/server"}, // reads what they wrote
	"internal/export":            {"internal/run", "internal/fleet", "internal/instance", "internal/gateway", "internal/volume", "internal/server"}, // the shared ask it
	"internal/fleet":             {"internal/run", "internal/gateway", "internal/volume", "internal/server"},
	"internal/gateway":           {"internal/run", "internal/volume", "internal/server"},
	"internal/volume":            {"internal/run", "internal/gateway", "internal/server"},
	"internal/template":          {"internal/store", "internal/project", "internal/run", "internal/server"},
	"internal/proxy":             {"internal/server", "internal/cli", "internal/host"},
	"internal/hub":               {"internal/server", "internal/store", "internal/proxy"},
	"internal/router":            {"internal/"},
	"internal/run":               {"internal/server", "internal/cli", "internal/proxy", "internal/hub"},
	"internal/scheduler":         {"internal/store", "internal/engine", "internal/run", "internal/server"}, // pure
	"cmd/dstack-agent":           {"internal/server", "internal/store", "internal/cli", "internal/run", "internal/config"},
	"internal/logstore":          {"internal/run", "internal/server", "internal/api"},
	"internal/object":            {"internal/run", "internal/server", "internal/store", "internal/engine", "internal/logstore", "internal/blobstore"}, // services know no database
	"internal/awsclient":         {"internal/run", "internal/server", "internal/store", "internal/engine", "internal/logstore", "internal/object"},
	"internal/gcpclient":         {"internal/run", "internal/server", "internal/store", "internal/engine", "internal/logstore", "internal/object"},
	"internal/nebiusclient":      {"internal/run", "internal/server", "internal/store", "internal/engine", "internal/backend", "internal/catalog"},
	"internal/ledger":            {"internal/run", "internal/fleet", "internal/instance", "internal/server"},
	"internal/host":              {"internal/run", "internal/fleet", "internal/instance", "internal/server", "internal/store"},
	"internal/blobstore":         {"internal/run", "internal/server"},
	"internal/crypt":             {"internal/"},
	"internal/encoded":           {"internal/"},
	"internal/exposition":        {"internal/"},
	"internal/jinja":             {"internal/"},
	"internal/jobspec":           {"internal/store", "internal/engine", "internal/scheduler", "internal/project", "internal/run", "internal/server"}, // pure
	"internal/offer":             {"internal/store", "internal/run", "internal/server"},
	"internal/catalog/collect":   {"internal/ledger", "internal/store", "internal/engine", "internal/run", "internal/server", "internal/cli"}, // works without a server
	"internal/catalog/pricelist": {"internal/backend", "internal/ledger", "internal/store", "internal/run", "internal/server"},                // asks nobody
}

func TestLayers(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range f.Imports {
			name, _ := strconv.Unquote(imp.Path.Value)
			check(t, filepath.ToSlash(rel), name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Errorf("only %d files were looked at", files)
	}
}

func check(t *testing.T, pkg, imported string) {
	target, ours := strings.CutPrefix(imported, "dstack/")
	if !ours || target == pkg {
		return
	}
	for layer, forbidden := range never {
		if pkg != layer && !strings.HasPrefix(pkg, layer+"/") || target == layer || strings.HasPrefix(target, layer+"/") {
			continue
		}
		if slices.ContainsFunc(forbidden, func(f string) bool {
			return target == strings.TrimSuffix(f, "/") || strings.HasPrefix(target, strings.TrimSuffix(f, "/")+"/")
		}) {
			t.Errorf("%s imports %s", pkg, target)
		}
	}
}
