package attach

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"dstack/internal/api"
	"dstack/internal/cli/attach/attachtest"
	"dstack/internal/cli/clientconfig"
)

// keyFile makes a private key in a file.
func keyFile(t *testing.T) (string, ssh.Signer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return path, signer
}

func TestSession(t *testing.T) {
	path, key := keyFile(t)
	app := echo(t)
	job := attachtest.Serve(t, "root", key.PublicKey(), map[string]string{"localhost:8000": app.String()})
	home := t.TempDir()
	dir := clientconfig.Dir(filepath.Join(home, ".dstack"))
	open := func(local int) *Session {
		s := &Session{
			Login: home,
			Home:  home, Dir: dir, Warn: func(text string) { t.Error(text) },
			Route: Route{{Alias: "train", Hostname: "127.0.0.1", Port: job.Addr.Port, User: "me", Tunnel: "root", Identity: path}},
		}
		fs, err := Reserve(t.Context(), "127.0.0.1", []Port{{Remote: 8000, Local: local}})
		if err != nil {
			t.Fatal(err)
		}
		s.Forwards = fs
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := open(freePort(t))
	if got := say(t, first.Forwards[0].Local); got != "HELLO" {
		t.Errorf("through the session: %q, want HELLO", got)
	}
	config := filepath.Join(dir.SSH(), "config")
	if got := read(t, config); !strings.HasPrefix(got, "Host train\n    HostName 127.0.0.1\n") {
		t.Errorf("ssh config:\n%s", got)
	}
	if got := read(t, filepath.Join(home, ".ssh", "config")); got != "Include ~/.dstack/ssh/config\n" {
		t.Errorf("~/.ssh/config = %q", got)
	}
	shared := (&Session{Home: home, Dir: dir, Route: first.Route}).Shared([]Port{{Remote: 8000}})
	if len(shared) != 1 || shared[0].Local != first.Forwards[0].Local {
		t.Errorf("shared ports = %v, want those of the first session", shared)
	}
	second := open(freePort(t))
	second.Close()
	if got := read(t, config); got == "" {
		t.Error("the second session removed the entries of the first")
	}
	first.Close()
	if got := read(t, config); got != "" {
		t.Errorf("ssh config after the end:\n%s", got)
	}
	if got := (&Session{Home: home, Dir: dir, Route: first.Route}).Shared(nil); got != nil {
		t.Errorf("shared ports of nobody = %v", got)
	}
}

// TestSessionBesideJob: a job whose localhost is ours opens its ports here itself, and must not find them taken.
func TestSessionBesideJob(t *testing.T) {
	path, key := keyFile(t)
	home := t.TempDir()
	job := attachtest.Serve(t, "root", key.PublicKey(), nil)
	s := &Session{
		Login: home, Home: home, Dir: clientconfig.Dir(filepath.Join(home, ".dstack")), Warn: func(text string) { t.Error(text) },
		Route: Route{{Alias: "train", Hostname: "127.0.0.1", Port: job.Addr.Port, User: "root", Identity: path}},
	}
	app := echo(t) // the job's, and ours
	elsewhere := freePort(t)
	if err := s.Reserve(t.Context(), "", []Port{{Remote: app.Port, Local: app.Port}}); err != nil {
		t.Fatalf("the port that the job has opened: %v", err)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := say(t, app.Port); got != "HELLO" {
		t.Errorf("the job's port: %q, want HELLO", got)
	}
	s.Close()
	if err := s.Reserve(t.Context(), "127.0.0.1", []Port{{Remote: app.Port, Local: elsewhere}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := say(t, elsewhere); got != "HELLO" {
		t.Errorf("another local port: %q, want HELLO", got)
	}
}

// TestSessionTidies: what a killed process left is removed when somebody attaches, what a living one keeps is not.
func TestSessionTidies(t *testing.T) {
	path, _ := keyFile(t)
	home := t.TempDir()
	dir := clientconfig.Dir(filepath.Join(home, ".dstack"))
	open := func(name string) *Session {
		s := &Session{
			Login: home, Home: home, Dir: dir, Warn: func(text string) { t.Error(text) }, Lazy: true,
			Route: Route{
				{Alias: name + "-host", Hostname: "203.0.113.17", Port: 22, User: "me", Identity: path},
				{Alias: name, Hostname: "localhost", Port: 10022, User: "root", Identity: path},
			},
		}
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	living, killed := open("living"), open("killed")
	_ = killed.lock.Close() // what a kill does to the lock
	last := open("last")
	var names []string
	for line := range strings.Lines(read(t, filepath.Join(dir.SSH(), "config"))) {
		if name, ok := strings.CutPrefix(line, "Host "); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	if diff := cmp.Diff([]string{"living-host", "living", "last-host", "last"}, names); diff != "" {
		t.Errorf("hosts of the SSH configuration (-want +got):\n%s", diff)
	}
	living.Close()
	last.Close()
	if left, _ := filepath.Glob(filepath.Join(dir.SSH(), "*.attached")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestReserveElsewhere: a job in a container of this machine has a network of its own, so its ports are forwarded.
func TestReserveElsewhere(t *testing.T) {
	path, key := keyFile(t)
	home := t.TempDir()
	job := attachtest.Serve(t, "root", key.PublicKey(), nil)
	job.Isolate()
	s := &Session{
		Home: home, Dir: clientconfig.Dir(filepath.Join(home, ".dstack")), Warn: func(text string) { t.Error(text) },
		Route: Route{{Alias: "train", Hostname: "127.0.0.1", Port: job.Addr.Port, User: "root", Identity: path}},
	}
	port := freePort(t)
	if err := s.Reserve(t.Context(), "127.0.0.1", []Port{{Remote: port}}); err != nil {
		t.Fatal(err)
	}
	defer Release(s.Forwards)
	if _, err := Reserve(t.Context(), "127.0.0.1", []Port{{Remote: port, Local: port}}); err == nil {
		t.Error("the port is not held")
	}
}

func TestSessionGivesUp(t *testing.T) {
	path, _ := keyFile(t)
	home := t.TempDir()
	dir := clientconfig.Dir(filepath.Join(home, ".dstack"))
	s := &Session{
		Home: home, Dir: dir, Warn: func(string) {},
		Route: Route{{Alias: "train", Hostname: "127.0.0.1", Port: freePort(t), User: "me", Identity: path}},
	}
	s.attempts = 2
	if err := s.Open(t.Context()); !errors.Is(err, ErrConnect) {
		t.Errorf("Open = %v, want ErrConnect", err)
	}
	if got := read(t, filepath.Join(dir.SSH(), "config")); got != "" {
		t.Errorf("ssh config after a failure:\n%s", got)
	}
}

func ptr[T any](v T) *T { return &v }

func TestRouteTo(t *testing.T) {
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh", "config"), []byte("Host jump\n  IdentityFile ~/.ssh/jump\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vm := api.JobProvisioningData{Hostname: ptr("203.0.113.17"), SSHPort: ptr(22), Username: "ubuntu", Dockerized: true}
	jumped := vm
	jumped.SSHProxy = &api.SSHConnectionParams{Hostname: "jump", Username: "j", Port: 2222}
	pod := api.JobProvisioningData{
		Hostname: ptr("10.0.0.5"), SSHPort: ptr(10022), Username: "root",
		SSHProxy: &api.SSHConnectionParams{Hostname: "node", Username: "root", Port: 32000},
	}
	local := api.JobProvisioningData{Hostname: ptr("127.0.0.1"), SSHPort: ptr(40022), Username: "root"}
	for name, tt := range map[string]struct {
		jpd  api.JobProvisioningData
		jrd  *api.JobRuntimeData
		job  int
		info *api.JobConnectionInfo
		want Route
	}{
		"a host": {vm, &api.JobRuntimeData{Ports: map[int]int{10022: 32771}, Username: ptr("me")}, 0, nil, Route{
			{Alias: "train-host", Hostname: "203.0.113.17", Port: 22, User: "ubuntu", Identity: "k"},
			{Alias: "train", Hostname: "localhost", Port: 32771, User: "me", Tunnel: "root", Identity: "k"},
		}},
		"host network, second node": {vm, &api.JobRuntimeData{Ports: map[int]int{}}, 1, nil, Route{
			{Alias: "train-1-0-host", Hostname: "203.0.113.17", Port: 22, User: "ubuntu", Identity: "k"},
			{Alias: "train-1-0", Hostname: "localhost", Port: 10022, User: "root", Tunnel: "root", Identity: "k"},
		}},
		"behind a jump host": {jumped, nil, 0, nil, Route{
			{Alias: "train-jump-host", Hostname: "jump", Port: 2222, User: "j", Identity: filepath.Join(home, ".ssh", "jump")},
			{Alias: "train-host", Hostname: "203.0.113.17", Port: 22, User: "ubuntu", Identity: "k"},
			{Alias: "train", Hostname: "localhost", Port: 10022, User: "root", Tunnel: "root", Identity: "k"},
		}},
		"a pod": {pod, nil, 0, nil, Route{
			{Alias: "train-jump-host", Hostname: "node", Port: 32000, User: "root", Identity: "k"},
			{Alias: "train", Hostname: "10.0.0.5", Port: 10022, User: "root", Tunnel: "root", Identity: "k"},
		}},
		"this machine": {local, nil, 0, nil, Route{
			{Alias: "train", Hostname: "127.0.0.1", Port: 40022, User: "root", Tunnel: "root", Identity: "k"},
		}},
		"an SSH proxy": {vm, nil, 0, &api.JobConnectionInfo{SSHProxyHostname: ptr("proxy"), SSHProxyUpstreamID: ptr("abc")}, Route{
			{Alias: "train", Hostname: "proxy", Port: 22, User: "abc", Tunnel: "abc_root", Identity: "k", Verified: true},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			j := api.Job{
				JobSpec:           api.JobSpec{JobNum: tt.job, JobName: "train-1-0"},
				JobSubmissions:    []api.JobSubmission{{JobProvisioningData: &tt.jpd, JobRuntimeData: tt.jrd}},
				JobConnectionInfo: tt.info,
			}
			got, err := RouteTo(api.Run{RunSpec: api.RunSpec{RunName: ptr("train")}}, j, "k", home)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("route (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := RouteTo(api.Run{}, api.Job{JobSubmissions: []api.JobSubmission{{}}}, "k", home); !errors.Is(err, errNotProvisioned) {
		t.Errorf("route to nowhere: %v", err)
	}
}

func TestChoose(t *testing.T) {
	job := func(replica, num int, s api.JobStatus) api.Job {
		return api.Job{JobSpec: api.JobSpec{ReplicaNum: replica, JobNum: num}, JobSubmissions: []api.JobSubmission{{Status: s}}}
	}
	r := api.Run{Jobs: []api.Job{job(0, 0, api.JobTerminated), job(1, 0, api.JobRunning), job(1, 1, api.JobRunning), job(2, 0, api.JobRunning)}}
	for _, tt := range []struct {
		replica *int
		job     int
		want    int
	}{{nil, 0, 1}, {ptr(0), 0, 0}, {nil, 1, 1}, {ptr(2), 0, 2}} {
		j, err := Choose(r, tt.replica, tt.job)
		if err != nil || j.JobSpec.ReplicaNum != tt.want {
			t.Errorf("Choose(%v, %d) = replica %d, %v, want %d", tt.replica, tt.job, j.JobSpec.ReplicaNum, err, tt.want)
		}
	}
	if _, err := Choose(r, nil, 7); err == nil {
		t.Error("Choose of a job that does not exist gave no error")
	}
}
