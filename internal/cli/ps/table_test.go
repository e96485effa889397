package ps

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

func ptr[T any](v T) *T { return &v }

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func run(t *testing.T, name, typ string, status api.RunStatus, age time.Duration, jobs ...api.Job) api.Run {
	t.Helper()
	text := "type: " + typ + "\ncommands: [a]\n"
	if typ == "service" {
		text += "port: 80\n"
	}
	c, err := config.Parse("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return api.Run{
		Status: status, StatusMessage: string(status), SubmittedAt: api.At(now.Add(-age)), Jobs: jobs,
		RunSpec: api.RunSpec{RunName: &name, Configuration: *c.Run},
	}
}

func job(replica, num int, group string, status api.JobStatus, jpd *api.JobProvisioningData) api.Job {
	return api.Job{
		JobSpec: api.JobSpec{ReplicaNum: replica, JobNum: num, ReplicaGroup: group},
		JobSubmissions: []api.JobSubmission{{
			Status: status, StatusMessage: string(status), SubmittedAt: api.At(now.Add(-3 * time.Minute)), JobProvisioningData: jpd,
		}},
	}
}

func gpu(backend, region, name string, memory, count int, price float64, spot bool) *api.JobProvisioningData {
	r := api.Resources{CPUs: 8, MemoryMiB: 64 << 10, Spot: spot}
	for range count {
		r.Gpus = append(r.Gpus, api.Gpu{Name: name, MemoryMiB: memory << 10})
	}
	return &api.JobProvisioningData{
		Backend: api.BackendType(backend), Region: region, Price: price, InstanceType: api.InstanceType{Name: "big", Resources: r},
	}
}

func lines(t *testing.T, tb *term.Table, color bool) string {
	t.Helper()
	var out bytes.Buffer
	io := term.New(nil, &out, &out)
	io.Color = color
	io.Print(tb)
	return out.String()
}

func TestTable(t *testing.T) {
	pulling := job(0, 1, "0", api.JobPulling, gpu("gcp", "us-central1", "A100", 80, 8, 20.3712, false))
	pulling.JobSubmissions[0].ImagePullProgress = &api.ImagePullProgress{
		DownloadedBytes: 3651 << 20, ExtractedBytes: 1095 << 20, TotalBytes: 6561 << 20, IsTotalBytesFinal: true,
	}
	h100 := gpu("remote", "remote", "H100", 80, 2, 0, false)
	runs := []api.Run{
		run(t, "notebook", "task", api.RunRunning, 2*time.Hour, job(0, 0, "0", api.JobRunning, gpu("aws", "eu-west-1", "L4", 24, 1, 0.8048, true))),
		run(t, "train", "task", api.RunRunning, 3*time.Minute, job(0, 0, "0", api.JobRunning, gpu("gcp", "us-central1", "A100", 80, 8, 20.3712, false)), pulling),
		run(t, "llm", "service", api.RunRunning, 30*time.Hour,
			job(2, 0, "b", api.JobSubmitted, nil), job(0, 0, "a", api.JobRunning, h100), job(1, 0, "a", api.JobRunning, h100)),
	}
	want := ` NAME                  BACKEND            GPU              PRICE           STATUS                    SUBMITTED
 notebook              aws (eu-west-1)    gpu=L4:24GB:1    $0.8048 (spot)  running                   2 hours ago
 train                                    -                -               running                   3 mins ago
    job=0              gcp (us-central1)  gpu=A100:80GB:8  $20.3712        running                   3 mins ago
    job=1              gcp (us-central1)  gpu=A100:80GB:8  $20.3712        pulling 1.07/3.57/6.41GB  3 mins ago
 llm                                      -                -               running                   yesterday
    group=0 replica=0  ssh (remote)       gpu=H100:80GB:2  $0              running                   3 mins ago
            replica=1  ssh (remote)       gpu=H100:80GB:2  $0              running                   3 mins ago
    group=1 replica=2                     -                -               submitted                 3 mins ago
`
	if diff := cmp.Diff(want, lines(t, Table(runs, TableOptions{Now: now}), false)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestTableVerbose(t *testing.T) {
	shared := gpu("remote", "remote", "H100", 80, 8, 8, false)
	j := job(0, 0, "0", api.JobRunning, shared)
	s := &j.JobSubmissions[0]
	s.InactivitySecs = ptr(int64(4545))
	s.Probes = []api.Probe{{SuccessStreak: 3}, {SuccessStreak: 1}, {}}
	j.JobSpec.Probes = []api.ProbeSpec{{ReadyAfter: 2}, {ReadyAfter: 2}, {ReadyAfter: 1}}
	s.JobRuntimeData = &api.JobRuntimeData{Offer: &api.InstanceOffer{
		Instance: gpu("remote", "remote", "H100", 80, 2, 0, false).InstanceType, Price: 2, Blocks: 2, TotalBlocks: 8,
	}}
	want := ` NAME  BACKEND       RESOURCES                 INSTANCE TYPE  PRICE  STATUS                   PROBES  SUBMITTED   ERROR
 dev   ssh (remote)  cpu=8 mem=64GB            big (2/8)      $2     running (inactive for    ✓~×     3 mins ago
                     gpu=H100:80GB:2                                 1h 15m 45s)
`
	got := lines(t, Table([]api.Run{run(t, "dev", "task", api.RunRunning, 3*time.Minute, j)}, TableOptions{Verbose: true, Now: now}), false)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestTableColors(t *testing.T) {
	failed := run(t, "big", "task", api.RunFailed, time.Minute, job(0, 0, "0", api.JobFailed, nil))
	failed.LatestJobSubmission = &api.JobSubmission{StatusMessage: "no capacity"}
	want := " \x1b[1mNAME\x1b[0m  \x1b[1mBACKEND\x1b[0m  \x1b[1mGPU\x1b[0m  \x1b[1mPRICE\x1b[0m  \x1b[1mSTATUS\x1b[0m       \x1b[1mSUBMITTED\x1b[0m\n" +
		" big            -    -      \x1b[38;5;220mno capacity\x1b[0m  1 min ago\n"
	if diff := cmp.Diff(want, lines(t, Table([]api.Run{failed}, TableOptions{Now: now}), true)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestWaiting(t *testing.T) {
	waits := func(name string, position int, why string) api.Run {
		r := run(t, name, "task", api.RunSubmitted, time.Hour)
		r.Waiting = &api.RunWaiting{Position: position, Reason: why, Since: api.At(now.Add(-5 * time.Minute))}
		return r
	}
	runs := []api.Run{waits("second", 2, "No offers.\nSee the docs"), run(t, "busy", "task", api.RunRunning, time.Hour), waits("first", 1, "Waits until 3 instances are free")}
	want := []string{"", " first is #1 in the queue since 5 mins ago: Waits until 3 instances are free", " second is #2 in the queue since 5 mins ago: No offers."}
	if diff := cmp.Diff(want, Waiting(runs, now)); diff != "" {
		t.Errorf("Waiting (-want +got):\n%s", diff)
	}
	if got := Waiting(runs[1:2], now); got != nil {
		t.Errorf("nobody waits: %q", got)
	}
}
