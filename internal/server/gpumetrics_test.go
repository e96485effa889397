package server

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agent/dcgm/dcgmtest"
	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/metrics"
	"dstack/internal/store"
)

const hopperUUID = "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef111"

// rack is a server with the project lab and a fleet of one idle host.
func rack(t *testing.T, s *Server) (w *sharing, fleet, instance string) {
	t.Helper()
	w = newSharing(t, s, "lab")
	fleet = w.sshFleet(t, "lab", "rack", "10.0.0.1")
	err := s.db.Read().QueryRowContext(t.Context(), `SELECT id FROM instance WHERE fleet_id = $1`, fleet).Scan(&instance)
	if err != nil {
		t.Fatal(err)
	}
	return w, fleet, instance
}

// eventsWithin are the messages about a fleet and its instances, oldest first.
func (s *Server) eventsWithin(t *testing.T, fleet string) []string {
	t.Helper()
	var list []api.Event
	s.must(t, "/api/events/list", map[string]any{"ascending": true, "within_fleets": []string{fleet}}, &list)
	var texts []string
	for _, e := range list {
		texts = append(texts, e.Message)
	}
	return texts
}

// says has a host send an event.
func (s *Server) says(t *testing.T, instanceID string, e agentapi.Event) error {
	t.Helper()
	e.Micros = time.Now().UnixMicro()
	if wrong := e.Check(time.Now()); wrong != "" {
		t.Fatalf("an event is %s", wrong)
	}
	return (&sink{s}).Handle(context.Background(), instanceID, []agentapi.Event{e})
}

// A host's GPUs are shown as they were checked last, and one that has failed keeps jobs away.
func TestInstanceHealth(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		_, fleet, id := rack(t, s)
		s.metrics.HealthEvery = time.Nanosecond // each counts
		check := func(health int, incidents ...agentapi.Incident) {
			t.Helper()
			if err := s.says(t, id, agentapi.Event{Kind: agentapi.HealthEvent, Health: &agentapi.Health{DCGM: &agentapi.DCGMHealth{OverallHealth: health, Incidents: incidents}}}); err != nil {
				t.Fatal(err)
			}
		}
		shown := func() api.HealthStatus {
			t.Helper()
			var f api.Fleet
			s.must(t, "/api/project/lab/fleets/get", map[string]any{"name": "rack"}, &f)
			return f.Instances[0].HealthStatus
		}
		offers := func() (idle int) {
			t.Helper()
			var plan api.RunPlan
			s.must(t, "/api/project/lab/runs/get_plan", map[string]any{"run_spec": map[string]any{"run_name": "plan", "ssh_key_pub": "x",
				"configuration": map[string]any{"type": "task", "commands": []string{"a"}, "resources": map[string]any{"cpu": "1..", "memory": "0..", "disk": "1GB.."}}}}, &plan)
			for _, o := range plan.JobPlans[0].Offers {
				if o.Availability == api.Idle {
					idle++
				}
			}
			return idle
		}
		if got := shown(); got != api.Healthy || offers() != 1 {
			t.Errorf("before any check: %s, %d offers", got, offers())
		}
		dbe := agentapi.Incident{System: 16, Health: agentapi.HealthFail, ErrorMessage: "row remap failure", EntityGroupID: 1}
		replays := agentapi.Incident{System: 1, Health: agentapi.HealthWarn, ErrorMessage: "12 replays", EntityGroupID: 1}
		check(agentapi.HealthPass)
		check(agentapi.HealthWarn, replays)
		if got := shown(); got != api.Warning || offers() != 1 {
			t.Errorf("with a warning: %s, %d offers", got, offers())
		}
		check(agentapi.HealthFail, dbe, replays)
		check(agentapi.HealthFail, dbe)
		if got := shown(); got != api.Failure || offers() != 0 {
			t.Errorf("with a failure: %s, %d offers", got, offers())
		}
		var checks api.HealthChecks
		s.must(t, "/api/project/lab/instances/get_instance_health_checks", map[string]any{"fleet_name": "rack", "instance_num": 0, "limit": 3}, &checks)
		type row struct {
			Status api.HealthStatus
			Events []string
		}
		var got []row
		for _, c := range checks.HealthChecks {
			r := row{Status: c.Status}
			for _, e := range c.Events {
				if e.Timestamp != c.CollectedAt {
					t.Errorf("a finding is of %v, its check of %v", e.Timestamp, c.CollectedAt)
				}
				r.Events = append(r.Events, string(e.Status)+": "+e.Message)
			}
			got = append(got, r)
		}
		want := []row{{api.Failure, []string{"failure: row remap failure"}}, {api.Failure, []string{"failure: row remap failure", "warning: 12 replays"}}, {api.Warning, []string{"warning: 12 replays"}}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the checks (-want +got):\n%s", diff)
		}
		if err := s.says(t, id, agentapi.Event{Kind: agentapi.HealthEvent, Health: &agentapi.Health{}}); err != nil {
			t.Fatal(err)
		}
		if got := shown(); got != api.Healthy || offers() != 1 {
			t.Errorf("when nobody checks any more: %s, %d offers", got, offers())
		}
		var changes []string
		for _, e := range s.eventsWithin(t, fleet) {
			if strings.Contains(e, "health") {
				changes = append(changes, e)
			}
		}
		if diff := cmp.Diff([]string{"Instance health changed HEALTHY -> WARNING", "Instance health changed WARNING -> FAILURE", "Instance health changed FAILURE -> HEALTHY"}, changes); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		if err := s.says(t, "no-such-instance", agentapi.Event{Kind: agentapi.HealthEvent, Health: &agentapi.Health{DCGM: &agentapi.DCGMHealth{}}}); err != nil {
			t.Errorf("the health of what is deleted: %v", err)
		}
	})
}

// running makes a run of the project and has its job run on the instance. It returns the job's id.
func (w *sharing) running(t *testing.T, project, name, instanceID string) string {
	t.Helper()
	a := w.call(t, "POST", "/api/project/"+project+"/runs/apply", w.tokens[project], applyPlan(spec(name, `"type": "task", "commands": ["a"]`), nil, false))
	if a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	var id string
	var data, inst map[string]any
	err := w.db.Write(t.Context(), func(tx *store.Tx) error {
		err := tx.QueryRowContext(t.Context(), `SELECT j.id, j.data FROM job j JOIN run r ON r.id = j.run_id WHERE r.name = $1`, name).Scan(&id, store.JSON(&data))
		if err != nil {
			return err
		}
		if err := tx.QueryRowContext(t.Context(), `SELECT data FROM instance WHERE id = $1`, instanceID).Scan(store.JSON(&inst)); err != nil {
			return err
		}
		data["provisioning"] = inst["provisioning"]
		_, err = tx.ExecContext(t.Context(), `UPDATE job SET status = 'running', instance_id = $1, data = $2, version = version + 1 WHERE id = $3`, instanceID, store.JSON(&data), id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A run whose record cannot be read does not keep the jobs of others from the page.
func TestMetricsDespiteDamage(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		s.Prometheus = true
		w, _, inst := rack(t, s)
		w.running(t, "lab", "well", inst)
		w.running(t, "lab", "broken", inst)
		err := s.db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.ExecContext(t.Context(), `UPDATE run SET data = '{bad', version = version + 1 WHERE name = 'broken'`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		a := s.call(t, "GET", "/metrics", "", nil)
		for _, name := range []string{"well", "broken"} {
			if text := string(a.Body); a.Status != http.StatusOK || !strings.Contains(text, `dstack_run_name="`+name+`"`) {
				t.Errorf("run %s is not shown: %d %s", name, a.Status, text)
			}
		}
	})
}

// What DCGM measures is on the page with its own labels and those of the job, as long as it is
// sensible; what a host makes up is dropped, and the page stays.
func TestGPUMetrics(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		s.Prometheus = true
		w, _, inst := rack(t, s)
		train, lie := w.running(t, "lab", "train", inst), w.running(t, "lab", "lie", inst)
		send := func(job, text string) error {
			return s.says(t, inst, agentapi.Event{Kind: agentapi.DCGMEvent, TaskID: job, DCGM: agentapi.Pack([]byte(text))})
		}
		scrape := func() string {
			t.Helper()
			a := s.call(t, "GET", "/metrics", "", nil)
			if a.Status != http.StatusOK || !strings.Contains(string(a.Body), "dstack_run_count_total{") {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			return string(a.Body)
		}
		if text := scrape(); strings.Contains(text, "DCGM_") {
			t.Errorf("before a host says anything:\n%s", text)
		}
		if err := send(train, dcgmtest.Exposition(97, hopperUUID)); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"a metric of the server": "dstack_run_count_total{dstack_project_name=\"lab\"} 5\n",
			"a label of the server":  "DCGM_FI_DEV_GPU_UTIL{UUID=\"x\",dstack_job_id=\"" + train + "\"} 5\n",
			"nonsense":               "what is this",
		} {
			dropped, ok := send(lie, text).(*agentapi.DroppedError)
			if !ok || dropped.Count != 1 {
				t.Errorf("%s is taken: %v", name, dropped)
			}
		}
		if err := send(lie, "# HELP DCGM_FI_DEV_GPU_UTIL lies\n# TYPE DCGM_FI_DEV_GPU_UTIL counter\nDCGM_FI_DEV_GPU_UTIL{UUID=\""+hopperUUID+"\"} 5 1\n"); err != nil {
			t.Errorf("what only differs: %v", err)
		}
		if err := send("3f2b8c50-52f1-4a3c-8f0b-1d5d2c0e9a11", dcgmtest.Exposition(1, hopperUUID)); err != nil {
			t.Errorf("of a job that is not the host's: %v", err)
		}
		text := scrape()
		for _, want := range []string{
			`DCGM_FI_DEV_GPU_UTIL{DCGM_FI_DRIVER_VERSION="570.86.15",Hostname="node-1",UUID="` + hopperUUID + `",device="nvidia0",dstack_backend="remote",dstack_gpu="",dstack_job_id="` + train + `",dstack_job_name="train-0-0",dstack_job_num="0",dstack_project_name="lab",dstack_replica_num="0",dstack_run_id="`,
			`dstack_run_name="train",dstack_run_type="task",dstack_user_name="lab",gpu="0",modelName="NVIDIA H100 80GB HBM3",pci_bus_id="00000000:18:00.0"} 97` + "\n",
			"# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{",
			`dstack_run_name="lie",dstack_run_type="task",dstack_user_name="lab"} 5` + "\n",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
		if n := strings.Count(text, "\nDCGM_"); n != 6 {
			t.Errorf("%d samples of DCGM in\n%s", n, text)
		}
		write(t, s, `UPDATE job_dcgm SET at = $1`, store.Micros(time.Now().Add(-10*time.Minute)))
		if text := scrape(); strings.Contains(text, "DCGM_") {
			t.Errorf("ten minutes later:\n%s", text)
		}
	})
}

// Hosts that say too much take no room of those that say little.
func TestGPUMetricsThatFit(t *testing.T) {
	for name, c := range map[string]struct {
		sizes []int64
		most  int64
		want  []int64
	}{
		"none":            {nil, 10, nil},
		"all":             {[]int64{3, 1, 2}, 6, []int64{1, 2, 3}},
		"without a giant": {[]int64{9, 1, 2}, 10, []int64{1, 2}},
		"giants":          {[]int64{11, 12}, 10, nil},
	} {
		var jobs []gpuJob
		for _, n := range c.sizes {
			jobs = append(jobs, gpuJob{text: metrics.Text{Size: n}})
		}
		var got []int64
		for _, j := range fitting(jobs, c.most) {
			got = append(got, j.text.Size)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
