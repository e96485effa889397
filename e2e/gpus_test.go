//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"dstack/internal/agent/dcgm/dcgmtest"
)

const (
	firstGPU  = "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef111"
	secondGPU = "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef222"
	thirdGPU  = "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef333"
)

// put writes a file of the machine, such that nobody reads half of it.
func (m *machine) put(path, text string) {
	m.t.Helper()
	cmd := exec.Command("docker", "exec", "-i", m.ID, "sh", "-c", fmt.Sprintf("cat >%s.part && mv %s.part %s", path, path, path))
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("write %s: %v\n%s", path, err, out)
	}
}

// bin is where the programs that stand in for NVIDIA's are, and what they say.
const bin = "/usr/local/bin/"

// startGPUHost starts a machine that seems to have GPUs, with NVIDIA's driver and DCGM.
func (w *world) startGPUHost(uuids ...string) *machine {
	w.t.Helper()
	m := w.startHost(hostOptions{NoDocker: true})
	fake := dcgmtest.Build(w.t)
	for _, name := range dcgmtest.Programs {
		docker(w.t, "cp", fake, m.ID+":"+bin+name)
	}
	m.put(bin+dcgmtest.GPUsFile, dcgmtest.GPUs(uuids...))
	m.put(bin+dcgmtest.HealthFile, dcgmtest.Report("", ""))
	m.put(bin+dcgmtest.MetricsFile, dcgmtest.Exposition(97, uuids...))
	m.out("touch", "/dev/nvidiactl")
	return m
}

// scrape is the server's page of metrics.
func (w *world) scrape() string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url()+"/metrics", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s, %v: %s", resp.Status, err, text)
	}
	return string(text)
}

// samples are the lines of a page about a metric.
func samples(page, metric string) []string {
	var list []string
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, metric+"{") {
			list = append(list, strings.TrimSuffix(line, "\n"))
		}
	}
	return list
}

// TestGPUs has a host whose GPUs DCGM watches: what it measures of the GPU of a job is on the
// server's page of metrics, and an instance with a failing GPU gets no jobs until it is well again.
func TestGPUs(t *testing.T) {
	w := prepareWorld(t)
	w.extra = []string{"DSTACK_ENABLE_PROMETHEUS_METRICS=1", "DSTACK_SERVER_INSTANCE_HEALTH_MIN_COLLECT_INTERVAL_SECONDS=1"}
	w.startServer()
	w.login()
	m := w.startGPUHost(firstGPU, secondGPU)
	w.must("apply", "-y", "-f", w.write("hoppers.fleet.dstack.yml", fmt.Sprintf(`
type: fleet
name: hoppers
env:
  DSTACK_AGENT_RUNTIME: process
ssh_config:
  user: root
  identity_file: %s
  hosts:
    - hostname: %s
      blocks: 2
`, w.key, m.Addr)))
	eventually(t, 60*time.Second, "the host is idle", func() bool { return strings.Contains(w.run("fleet").Out, "0/2 busy") })
	if out := w.run("fleet").Out; !strings.Contains(out, "H100:80GB:2") {
		t.Errorf("the fleet does not show the GPUs:\n%s", out)
	}
	if page := w.scrape(); strings.Contains(page, "DCGM_") || m.run("pgrep", "dcgm-exporter") == nil {
		t.Errorf("an exporter runs although no job has a GPU, or is on the page:\n%s", page)
	}

	submit := func(name string) {
		w.must("apply", "-y", "-d", "-f", w.write(name+".dstack.yml", "type: task\nname: "+name+`
commands: [sleep 3600]
retry:
  on_events: [no-capacity]
  duration: 1h
resources:
  gpu: H100:1
  cpu: 0..
  memory: 0..
  disk: 1GB..
`))
	}
	submit("train")
	w.waitStatus("train", "running")
	var lines []string
	eventually(t, 60*time.Second, "the GPU of the job is on the page of metrics", func() bool {
		lines = samples(w.scrape(), "DCGM_FI_DEV_GPU_UTIL")
		return len(lines) > 0
	})
	if len(lines) != 1 || strings.Count(lines[0], `UUID="GPU-`) != 1 || !strings.Contains(lines[0], `modelName="NVIDIA H100 80GB HBM3"`) ||
		!strings.Contains(lines[0], `dstack_project_name="main"`) || !strings.Contains(lines[0], `dstack_run_name="train"`) || !strings.Contains(lines[0], `dstack_gpu="H100"`) {
		t.Errorf("the GPUs of the job on the page:\n%s", strings.Join(lines, "\n"))
	}

	const finding = "GPU 0 had uncorrectable memory errors and row remapping failed."
	m.put(bin+dcgmtest.HealthFile, dcgmtest.Report("Failure", finding))
	eventually(t, 30*time.Second, "the failure is shown", func() bool { return strings.Contains(w.run("fleet").Out, "1/2 busy (failure)") })
	submit("next")
	eventually(t, 30*time.Second, "the next run waits", func() bool {
		s := w.runStatus("next")
		return s == "submitted" || s == "pending"
	})
	var checks struct {
		HealthChecks []struct {
			Status string `json:"status"`
			Events []struct {
				Message string `json:"message"`
			} `json:"events"`
		} `json:"health_checks"`
	}
	before := 0
	eventually(t, 30*time.Second, "it still waits some checks later", func() bool {
		if s := w.runStatus("next"); s != "submitted" && s != "pending" {
			t.Fatalf("the next run is %s on an instance with a failure", s)
		}
		if w.api("/api/project/main/instances/get_instance_health_checks", map[string]any{"fleet_name": "hoppers", "instance_num": 0, "limit": 1000}, &checks) != http.StatusOK {
			t.Fatal("no health checks")
		}
		failed := 0
		for _, c := range checks.HealthChecks {
			if c.Status == "failure" {
				failed++
			}
		}
		if before == 0 {
			before = failed
		}
		return failed >= before+3
	})
	if c := checks.HealthChecks[0]; c.Status != "failure" || len(c.Events) != 1 || c.Events[0].Message != finding {
		t.Errorf("the last check is %+v", c)
	}
	if got := w.runStatus("train"); got != "running" {
		t.Errorf("the run on the instance is %s", got)
	}

	m.put(bin+dcgmtest.HealthFile, dcgmtest.Report("", ""))
	w.waitStatus("next", "running")
	events := w.must("event", "--within-fleet", "hoppers").Out
	for _, want := range []string{"Instance health changed HEALTHY -> FAILURE", "Instance health changed FAILURE -> HEALTHY"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event %q:\n%s", want, events)
		}
	}
	eventually(t, 60*time.Second, "each job has its own GPU on the page", func() bool {
		lines = samples(w.scrape(), "DCGM_FI_DEV_GPU_UTIL")
		all := strings.Join(lines, "\n")
		return len(lines) == 2 && strings.Contains(all, firstGPU) && strings.Contains(all, secondGPU) && strings.Contains(all, `dstack_run_name="next"`)
	})
	w.must("stop", "-y", "train")
	w.must("stop", "-y", "next")
	w.waitStatus("next", "terminated")
	w.waitStatus("train", "terminated")
	w.must("fleet", "delete", "hoppers", "-y")
	eventually(t, 60*time.Second, "the exporter ends with the agent", func() bool { return m.run("pgrep", "dcgm-exporter") != nil })
}
