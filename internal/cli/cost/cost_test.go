package cost

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func row(usd, hourly, unconfirmed float64, fields string) api.CostRow {
	r := api.CostRow{Kind: "instance", CostSum: api.CostSum{Hours: usd / 2, CostUSD: usd, HourlyUSD: hourly, UnconfirmedUSD: unconfirmed}}
	if err := json.Unmarshal([]byte(fields), &r); err != nil {
		panic(err)
	}
	return r
}

// cost runs the command with arguments against a server that answers so.
func cost(t *testing.T, handler http.HandlerFunc, args ...string) (string, error) {
	t.Helper()
	srv := httptest.NewServer(handler)
	defer srv.Close()
	var out bytes.Buffer
	streams := term.New(strings.NewReader(""), &out, io.Discard)
	streams.Getenv = func(name string) string {
		return map[string]string{"DSTACK_SERVER_URL": srv.URL, "DSTACK_TOKEN": "t", "DSTACK_PROJECT": "main"}[name]
	}
	cmd := New(&program.Program{IO: streams, Home: t.TempDir(), Now: func() time.Time { return now }})
	cmd.SetArgs(args)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestCost(t *testing.T) {
	for name, tt := range map[string]struct {
		args  []string
		asked string
		costs api.Costs
		want  string
	}{
		"nothing": {nil, `{"project_names":["main"],"fleet_names":null,"since":"2026-10-25T12:00:00Z","until":null,"by":["fleet"]}`, api.Costs{},
			" FLEET  HOURS  NOW/H  COST\n\nIn all $0.\n"},
		"fleets and what is in none": {[]string{"--since", "7d", "--until", "2026-11-20T00:00:00Z"},
			`{"project_names":["main"],"fleet_names":null,"since":"2026-11-17T12:00:00Z","until":"2026-11-20T00:00:00Z","by":["fleet"]}`,
			api.Costs{Rows: []api.CostRow{row(10.5, 2.5, 0, `{"fleet": "gpus"}`), row(0.25, 0.01, 0, `{"kind": "volume", "hours": 0}`)}, CostSum: api.CostSum{CostUSD: 10.75, HourlyUSD: 2.51}},
			` FLEET  KIND      HOURS  NOW/H  COST
 gpus   instance  5.2    $2.5   $10.5
        volume           $0.01  $0.25

In all $10.75, and $2.51 per hour goes on.
`},
		"runs of all projects by day": {[]string{"-a", "--by", "run,day"},
			`{"project_names":null,"fleet_names":null,"since":"2026-10-25T12:00:00Z","until":null,"by":["project","run","day"]}`,
			api.Costs{Rows: []api.CostRow{row(4, 0, 0, `{"project": "main", "run": "train", "day": "2026-11-23"}`), row(2, 0, 0, `{"project": "main", "day": "2026-11-23"}`)}, CostSum: api.CostSum{CostUSD: 6}},
			` PROJECT  RUN     DAY         HOURS  NOW/H  COST
 main     train   2026-11-23  2.0           $4
 main     (idle)  2026-11-23  1.0           $2

In all $6.
`},
		"what is deleted": {[]string{"--by", "project,fleet"},
			`{"project_names":["main"],"fleet_names":null,"since":"2026-10-25T12:00:00Z","until":null,"by":["project","fleet"]}`,
			api.Costs{Rows: []api.CostRow{
				row(4, 0, 0, `{"project": "main", "fleet": "gpus", "fleet_id": "0a"}`),
				row(2, 0, 0, `{"project": "main", "fleet": "gpus", "fleet_id": "1b2c3d4e-5f", "fleet_deleted": true}`),
				row(2, 0, 0, `{"project": "old", "project_id": "9f8e7d6c-5b", "project_deleted": true, "fleet": "x", "fleet_deleted": true}`),
			}, CostSum: api.CostSum{CostUSD: 8}},
			` PROJECT                  FLEET                     HOURS  NOW/H  COST
 main                     gpus                      2.0           $4
 main                     gpus (deleted, 1b2c3d4e)  1.0           $2
 old (deleted, 9f8e7d6c)  x (deleted)               1.0           $2

In all $8.
`},
		"what nobody has confirmed": {[]string{"--fleet", "gpus", "--since", ""},
			`{"project_names":["main"],"fleet_names":["gpus"],"since":null,"until":null,"by":["fleet"]}`,
			api.Costs{Rows: []api.CostRow{row(10, 2, 8, `{"fleet": "gpus"}`)}, CostSum: api.CostSum{CostUSD: 10, HourlyUSD: 2, UnconfirmedUSD: 8}},
			` FLEET  HOURS  NOW/H  COST  UNCONFIRMED
 gpus   5.0    $2     $10   $8

In all $10, and $2 per hour goes on. Of it $8 is for what could not be confirmed to be gone or there: an administrator sees more with ` + "`dstack server doctor`.\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := cost(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.URL.Path != "/api/costs/get" {
					t.Errorf("asked %s", r.URL.Path)
				}
				if diff := cmp.Diff(tt.asked, strings.TrimSpace(string(body))); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
				_ = json.NewEncoder(w).Encode(tt.costs)
			}, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCostErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		args   []string
		status int
		body   string
		want   string
	}{
		"an unknown grouping": {[]string{"--by", "colour"}, 0, "", `Costs cannot be grouped by "colour": only by project, fleet, instance, backend, run, user, day`},
		"no time":             {[]string{"--since", "soon"}, 0, "", "Invalid datetime format"},
		"a project and all":   {[]string{"--project", "main", "--all"}, 0, "", "none of the others can be"},
		"a published server":  {nil, http.StatusMethodNotAllowed, `{"detail": "Method Not Allowed"}`, "The server does not tell what machines have cost"},
		"a refusal":           {nil, http.StatusBadRequest, `{"detail": [{"msg": "Fleet x not found", "code": "resource_not_exists"}]}`, "Fleet x not found"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cost(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.status == 0 {
					t.Error("the server was asked")
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}, tt.args...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
