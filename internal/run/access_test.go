package run

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
	"dstack/internal/api"
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
		specs, err := Images{}.replicaSpecs(spec, "caller", onlyGroup, 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.env, specs[0].Env); diff != "" {
			t.Errorf("%s: the job's environment: %s", name, diff)
		}
		if serverAccess(spec) != tt.asks {
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
