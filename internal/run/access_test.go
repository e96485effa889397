package run

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/jobspec"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func TestServerAccess(t *testing.T) {
	for name, tt := range map[string]struct {
		yaml    string
		asks    bool
		env     map[string]string // of the job as it is stored
		onHost  map[string]string
		refusal string // where the operator forbids it
	}{
		"without": {"env: [A=1]", false, map[string]string{"A": "1"}, nil, ""},
		"with": {"dstack: true", true, map[string]string{"DSTACK_SERVER_URL": "http+unix://%2Frun%2Fdstack%2Fserver.sock"},
			map[string]string{"DSTACK_SERVER_URL": "http+unix://%2Frun%2Fdstack%2Fserver.sock", "DSTACK_PROJECT": "main"},
			"This dstack-server installation forbids `dstack: true` in run configurations."},
		"another server": {"dstack: true\nenv: [DSTACK_SERVER_URL=https://x, DSTACK_PROJECT=p]", true, map[string]string{"DSTACK_SERVER_URL": "https://x", "DSTACK_PROJECT": "p"},
			map[string]string{"DSTACK_SERVER_URL": "https://x", "DSTACK_PROJECT": "p"},
			"This dstack-server installation forbids `dstack: true` in run configurations."},
	} {
		spec, err := normalised("type: task\nname: caller\ncommands: [work]\n" + tt.yaml)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		specs, err := jobspec.Images{}.Replica(spec, "caller", jobspec.OnlyGroup, 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.env, specs[0].Env); diff != "" {
			t.Errorf("%s: the job's environment: %s", name, diff)
		}
		if jobspec.ServerAccess(spec) != tt.asks {
			t.Errorf("%s: asks for access: %v", name, !tt.asks)
		}
		if tt.asks {
			task := agentapi.TaskSpec{Job: agentapi.JobSpec{Project: "main", Env: specs[0].Env}}
			giveAccess(&task)
			if diff := cmp.Diff(tt.onHost, task.Job.Env); diff != "" || !task.Job.ServerAccess {
				t.Errorf("%s: on the host: %v %s", name, task.Job.ServerAccess, diff)
			}
		}
		if err := checkServerAccess(spec, false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		refused, _ := errors.AsType[*api.Error](checkServerAccess(spec, true))
		if got := refused; (got == nil) != (tt.refusal == "") || got != nil && got.Msg != tt.refusal {
			t.Errorf("%s: where it is forbidden: %v, want %q", name, got, tt.refusal)
		}
	}
}

// TestMayCall: a host gets no access to the server but for jobs of its own that asked for it.
func TestMayCall(t *testing.T) {
	db := storetest.Open(t, storetest.Path(t))
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		for run, dstack := range map[string]string{"asked": "true", "silent": "false"} {
			_, err := tx.ExecContext(t.Context(), `
INSERT INTO run (id, project_id, user_id, name, status, submitted_at, shard, data) VALUES ($1, 'p', 'u', $1, 'running', 1, 0, $2)`,
				run, `{"spec": {"configuration": {"type": "task", "commands": ["true"], "dstack": `+dstack+`}}}`)
			if err != nil {
				return err
			}
			for i, status := range []string{"running", "done"} {
				_, err := tx.ExecContext(t.Context(), `
INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, instance_id, submitted_at, shard, data)
VALUES ($1, $2, 'p', 0, 0, $3, $4, 'its-host', 1, 0, '{}')`, run+"-"+status, run, i, status)
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{Config: Config{DB: db}, rows: newRows()}
	for _, tt := range []struct {
		host, job string
		want      bool
	}{
		{"its-host", "asked-running", true},
		{"another", "asked-running", false},
		{"its-host", "asked-done", false},
		{"its-host", "silent-running", false},
		{"its-host", "nosuch", false},
	} {
		if got, err := s.MayCall(t.Context(), tt.host, tt.job); got != tt.want || err != nil {
			t.Errorf("%s on %s: %v, %v", tt.job, tt.host, got, err)
		}
	}
}
