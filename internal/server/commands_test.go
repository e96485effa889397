package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"dstack/internal/api"
	"dstack/internal/store"
)

// before are the scenarios that must have happened for another to make sense. A scenario is
// matched by the beginning of its name.
var before = []struct{ scenario, first string }{
	{"02-cloud-fleet-delete", "02-cloud-fleet-apply"},
	{"02-fleet-apply-unchanged", "02-fleet-apply"},
	{"02-fleet-get-json", "02-fleet-apply"},
	{"02-fleet-same-hosts", "02-fleet-apply"},
	{"03-apply-error-08", "02-fleet-apply"},
	{"04-event-fleet", "02-fleet-apply"},
	{"04-secret-get", "04-secret-set-again"},
	{"04-offer", "02-fleet-apply"},
	{"05-task-attached", "02-fleet-apply"},
	{"05-task-hyphen-secret", "02-fleet-apply"},
	{"05-task-hyphen-secret", "04-secret-set"},
	{"05-task-multi", "02-fleet-apply"},
	{"05-task-multi", "05-secret-set"},
	{"05-task-secret-in-command", "02-fleet-apply"},
	{"06-task-detached", "02-fleet-apply"},
	{"06-apply", "06-task-detached"},
	{"07-", "02-fleet-apply"},
	{"08-pull-life", "02-fleet-apply"},
	{"09-dev-env", "02-fleet-apply"},
	{"09-service", "02-fleet-apply"},
	{"11-delete-fleet-file", "02-fleet-apply"},
	{"11-secret-delete", "04-secret-set"},
	{"11-fleet-apply-after", "02-fleet-apply"},
	{"11-fleet-delete-instance", "02-fleet-apply"},
	{"12-cluster-fleet-delete", "12-cluster-fleet-apply"},
	{"12-gang-attached", "12-cluster-fleet-apply"},
	{"12-gang-life/", "12-cluster-fleet-apply"},
}

// elsewhere are the exchanges that are not compared here, with the reason. An entry is for all
// exchanges whose id begins so.
var elsewhere = map[string]string{
	"02-cloud-fleet-delete/03":      "the engine, which rests, removes the fleet",
	"02-fleet-apply/02":             "hosts are ready at once here",
	"02-fleet-delete/00":            "of a fleet from before the recording",
	"03-apply-error-10/01":          "a secret that does not exist is refused when the plan is made",
	"03-apply-error-10/02":          "a secret that does not exist is refused when the plan is made",
	"03-apply-error-12/01":          "images are looked up by the host that pulls them",
	"03-gateway-apply/00":           "the error says which backends the project has",
	"03-volume-apply/02":            "the error says which backends the project has",
	"04-export-create":              "the published server has switched exports off",
	"04-export-list":                "the published server has switched exports off",
	"04-import-":                    "the published server has switched exports off",
	"06-apply-changed-no/01":        "the run of the recording was running",
	"06-apply-unchanged/01":         "the run of the recording was running",
	"06-fleet-delete-busy/":         "the run of the recording was running",
	"06-metrics/01":                 "the run of the recording was running",
	"07-stop-early-life/01":         "the run of the recording had been there before",
	"09-service-proxy/00":           "the engine, which rests, starts the replicas",
	"09-service-proxy/01":           "the engine, which rests, starts the replicas",
	"09-service-proxy/02":           "the engine, which rests, starts the replicas",
	"09-service-update-auth/01":     "the run of the recording was running",
	"09-service-update-replicas/01": "the run of the recording was running",
	"09-service-update-replicas/03": "the run of the recording was running",
	"11-delete-fleet-file/03":       "the engine, which rests, removes the fleet",
	"12-gang-life/01":               "the run of the recording had been there before",
	"12-cluster-fleet-apply/02":     "hosts are ready at once here",
}

// TestReplayCommands sends what the published client sent, scenario by scenario, to a server
// whose hosts are idle, and compares as [TestReplay] does. The engine rests: what happens to a
// run after it was submitted is for the end-to-end suite, and that its every recorded status
// has the right shape for TestRecordedResponses of package api.
func TestReplayCommands(t *testing.T) {
	groups := map[string]recordings{}
	list := readRecordings(t, "testdata/commands.json.gz")
	for _, g := range list {
		groups[g.Name] = g
	}
	for _, g := range list {
		t.Run(g.Name, func(t *testing.T) {
			p := player{s: newServer(t), known: map[string]string{}}
			p.prepare(t, groups, g.Name)
			for i, rec := range g.Exchanges {
				id := fmt.Sprintf("%s/%02d", g.Name, i)
				if carriedOut(rec) {
					continue
				}
				p.check(t, id, rec, reasons(id))
				p.s.hostsReady(t, groups)
			}
		})
	}
}

// carriedOut says that a recorded answer shows a run that hosts have worked on.
func carriedOut(rec recording) bool {
	v, ok := rec.Want.(map[string]any)
	if !ok || !strings.HasSuffix(rec.Path, "/runs/get") {
		return false
	}
	latest, ok := v["latest_job_submission"].(map[string]any)
	return ok && (v["status"] != "submitted" || latest["status"] != "submitted" || latest["job_provisioning_data"] != nil || latest["termination_reason"] != nil)
}

func reasons(id string) map[string]string {
	for prefix, why := range elsewhere {
		if strings.HasPrefix(id, prefix) {
			return map[string]string{id: why}
		}
	}
	return nil
}

func (p *player) prepare(t *testing.T, groups map[string]recordings, name string) {
	t.Helper()
	for _, b := range before {
		if !strings.HasPrefix(name+"/", b.scenario) || b.first == name {
			continue
		}
		p.prepare(t, groups, b.first)
		for _, rec := range groups[b.first].Exchanges {
			p.play(t, rec)
			p.s.hostsReady(t, groups)
		}
	}
}

// hostsReady makes pending instances idle, on hardware as it was recorded.
func (s *Server) hostsReady(t *testing.T, groups map[string]recordings) {
	t.Helper()
	var run api.Run
	if err := json.Unmarshal(marshal(groups["06-attach-logs"].Exchanges[0].Want), &run); err != nil {
		t.Fatal(err)
	}
	provisioning := run.LatestJobSubmission.JobProvisioningData
	offer := run.LatestJobSubmission.JobRuntimeData.Offer
	err := s.db.Write(t.Context(), func(tx *store.Tx) error {
		rows, err := tx.QueryContext(t.Context(), `SELECT id, data, ssh_host FROM instance WHERE status = 'pending' AND ssh_host <> ''`)
		if err != nil {
			return err
		}
		found := map[string]map[string]any{}
		for rows.Next() {
			var id, host string
			data := map[string]any{}
			if err := rows.Scan(&id, store.JSON(&data), &host); err != nil {
				return err
			}
			p := *provisioning
			p.Hostname = &host
			data["offer"], data["provisioning"] = offer, p
			found[id] = data
		}
		if err := rows.Close(); err != nil {
			return err
		}
		for id, data := range found {
			if _, err := tx.ExecContext(t.Context(), `UPDATE instance SET status = 'idle', blocks = 1, data = $1, version = version + 1 WHERE id = $2`, store.JSON(&data), id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
