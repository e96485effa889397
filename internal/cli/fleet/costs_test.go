package fleet

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

	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

const (
	cloudFleet = `{"id": "f-1", "name": "gpus", "project_name": "main", "status": "active", "created_at": "2026-11-24T11:00:00Z",
		"spec": {"configuration": {"type": "fleet", "nodes": {"min": 0, "max": 2}}, "profile": {"name": "default"}},
		"instances": [{"id": "i-1", "name": "gpus-0", "instance_num": 0, "project_name": "main", "status": "idle", "created": "2026-11-24T11:00:00Z", "price": 2.5, "backend": "lambda", "region": "north"}]}`
	sshFleet = `{"id": "f-2", "name": "rig", "project_name": "main", "status": "active", "created_at": "2026-11-24T11:00:00Z",
		"spec": {"configuration": {"type": "fleet", "ssh_config": {"hosts": ["a"]}}, "profile": {"name": "default"}}, "instances": []}`
	both  = `{"cost_usd": 12.5, "rows": [{"kind": "instance", "fleet_id": "f-1", "instance_id": "i-1", "cost_usd": 2.5}, {"kind": "instance", "fleet_id": "f-1", "instance_id": "i-0", "cost_usd": 10}]}`
	whole = `{"cost_usd": 12.5, "rows": [{"kind": "instance", "fleet_id": "f-1", "cost_usd": 12.5}]}`
)

// TestVerboseShowsCosts has a column when something was paid and the server tells, and asks no
// server about hosts of the user.
func TestVerboseShowsCosts(t *testing.T) {
	bare := ` NAME           NODES  RESOURCES  DRIVER  SPOT       BACKEND         PRICE  STATUS  CREATED     ERROR
 gpus           0..2                      on-demand  *                      active  1 hour ago
    instance=0                                       lambda (north)  $2.5   idle    1 hour ago

`
	for name, tt := range map[string]struct {
		fleet  string
		brief  bool
		answer func(asked int) (status int, body string)
		asked  int
		want   string
	}{
		"fleets and instances": {fleet: cloudFleet, asked: 1, answer: func(int) (int, string) { return 200, both },
			want: ` NAME           NODES  RESOURCES  DRIVER  SPOT       BACKEND         PRICE  COST   STATUS  CREATED     ERROR
 gpus           0..2                      on-demand  *                      $12.5  active  1 hour ago
    instance=0                                       lambda (north)  $2.5   $2.5   idle    1 hour ago

`},
		"more instances than can be told": {fleet: cloudFleet, asked: 2, answer: func(asked int) (int, string) {
			if asked == 1 {
				return 400, `{"detail": [{"msg": "These are more than 20000 rows", "code": "error"}]}`
			}
			return 200, whole
		}, want: ` NAME           NODES  RESOURCES  DRIVER  SPOT       BACKEND         PRICE  COST   STATUS  CREATED     ERROR
 gpus           0..2                      on-demand  *                      $12.5  active  1 hour ago
    instance=0                                       lambda (north)  $2.5          idle    1 hour ago

`},
		"nothing was paid":   {fleet: cloudFleet, asked: 1, answer: func(int) (int, string) { return 200, `{"rows": []}` }, want: bare},
		"a published server": {fleet: cloudFleet, asked: 1, answer: func(int) (int, string) { return 405, `{"detail": "Method Not Allowed"}` }, want: bare},
		"not asked for": {fleet: cloudFleet, brief: true, want: ` NAME           NODES  GPU  SPOT       BACKEND         PRICE  STATUS  CREATED
 gpus           0..2        on-demand  *                      active  1 hour ago
    instance=0                         lambda (north)  $2.5   idle    1 hour ago

`},
		"hosts of the user": {fleet: sshFleet, want: ` NAME  NODES  RESOURCES  DRIVER  SPOT  BACKEND  PRICE  STATUS  CREATED     ERROR
 rig   1                               ssh             active  1 hour ago

`},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if r.URL.Path != "/api/costs/get" {
					_ = json.NewEncoder(w).Encode([]json.RawMessage{json.RawMessage(tt.fleet)})
					return
				}
				asked++
				status, body := tt.answer(asked)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			}))
			defer srv.Close()
			var out bytes.Buffer
			streams := term.New(strings.NewReader(""), &out, io.Discard)
			streams.Getenv = func(name string) string {
				return map[string]string{"DSTACK_SERVER_URL": srv.URL, "DSTACK_TOKEN": "t", "DSTACK_PROJECT": "main"}[name]
			}
			now := func() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }
			if err := List(t.Context(), Options{Program: &program.Program{IO: streams, Home: t.TempDir(), Now: now}, Verbose: !tt.brief}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
			if asked != tt.asked {
				t.Errorf("the server was asked for costs %d times, want %d", asked, tt.asked)
			}
		})
	}
}
