package exports

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

const (
	oneExport = `{"id": "1", "name": "shared", "is_global": false, "imports": [{"project_name": "team"}, {"project_name": "guest"}], "exported_fleets": [{"id": "2", "name": "rack"}], "exported_gateways": []}`
	allExport = `{"id": "3", "name": "all", "is_global": true, "imports": [{"project_name": "team"}], "exported_fleets": [], "exported_gateways": [{"id": "4", "name": "gw"}]}`
	oneImport = `{"id": "5", "export": {"id": "1", "name": "shared", "project_name": "lab", "exported_fleets": [{"id": "2", "name": "rack"}], "exported_gateways": []}}`
)

func TestCommands(t *testing.T) {
	for name, tt := range map[string]struct {
		command func(*program.Program) *cobra.Command
		args    string
		answer  string
		path    string // below the project
		body    string // sent
		want    string // printed
		fails   bool
	}{
		"export list": {NewExport, "", "[" + oneExport + ", " + allExport + "]", "exports/list", "",
			" NAME    FLEETS  GATEWAYS  IMPORTERS\n shared  rack    -         team, guest\n all     -       gw        *\n\n", false},
		"export list with warnings": {NewExport, "list", `{"exports": [` + oneExport + `], "warnings": ["w"]}`, "exports/list", "",
			" NAME    FLEETS  GATEWAYS  IMPORTERS\n shared  rack    -         team, guest\n\n", false},
		"export list as JSON": {NewExport, "--json", "[]", "exports/list", "", "[]\n", false},
		"export create": {NewExport, "create shared --importer team --importer guest --fleet rack", oneExport, "exports/create",
			`{"name": "shared", "is_global": false, "importer_projects": ["team", "guest"], "exported_fleets": ["rack"], "exported_gateways": []}`,
			" NAME    FLEETS  GATEWAYS  IMPORTERS\n shared  rack    -         team, guest\n\n", false},
		"export update": {NewExport, "update all --set-global --remove-fleet rack --add-gateway gw", allExport, "exports/update",
			`{"name": "all", "set_global": true, "unset_global": false, "add_importer_projects": [], "remove_importer_projects": [], "add_exported_fleets": [], "remove_exported_fleets": ["rack"], "add_exported_gateways": ["gw"], "remove_exported_gateways": []}`,
			" NAME  FLEETS  GATEWAYS  IMPORTERS\n all   -       gw        *\n\n", false},
		"export update both ways": {NewExport, "update all --set-global --unset-global", "", "", "", "", true},
		"export delete":           {NewExport, "delete shared -y", "null", "exports/delete", `{"name": "shared"}`, "Export shared deleted\n", false},
		"import list":             {NewImport, "", "[" + oneImport + "]", "imports/list", "", " NAME        FLEETS  GATEWAYS\n lab/shared  rack    -\n\n", false},
		"import delete": {NewImport, "delete lab/shared -y", "null", "imports/delete", `{"export_name": "shared", "export_project_name": "lab"}`,
			"Import lab/shared deleted\n", false},
		"import delete without a project": {NewImport, "delete shared -y", "", "", "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			var path string
			var body []byte
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				path = r.URL.Path
				body, _ = io.ReadAll(r.Body) // nothing is expected instead
				_, _ = io.WriteString(w, tt.answer)
			}))
			defer srv.Close()
			var out bytes.Buffer
			streams := term.New(strings.NewReader(""), &out, io.Discard)
			streams.Getenv = func(name string) string {
				return map[string]string{"DSTACK_SERVER_URL": srv.URL, "DSTACK_TOKEN": "t", "DSTACK_PROJECT": "main"}[name]
			}
			p := &program.Program{IO: streams, Home: t.TempDir()}
			cmd := tt.command(p)
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			cmd.SetArgs(strings.Fields(tt.args))
			if err := cmd.ExecuteContext(context.Background()); (err != nil) != tt.fails {
				t.Fatalf("%v", err)
			}
			if tt.fails {
				if path != "" {
					t.Errorf("%s was asked for", path)
				}
				return
			}
			if path != "/api/project/main/"+tt.path {
				t.Errorf("asked %s", path)
			}
			if diff := cmp.Diff(decoded(t, []byte(tt.body)), decoded(t, body)); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, trimmed(out.String())); diff != "" {
				t.Errorf("printed (-want +got):\n%s", diff)
			}
		})
	}
}

func decoded(t *testing.T, data []byte) (v any) {
	t.Helper()
	if len(data) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// trimmed is a text without the blanks at the ends of its lines.
func trimmed(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}
