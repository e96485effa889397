package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"dstack/internal/api"
	"dstack/internal/cli/attach/attachtest"
)

// identity writes a private key and returns its path and public half.
func identity(t *testing.T) (string, ssh.PublicKey) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
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
	shared, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return path, shared
}

// on is a submission that runs on an SSH server of the test.
func on(id string, job *attachtest.Server) api.JobSubmission {
	host := "127.0.0.1"
	return api.JobSubmission{ID: id, Status: api.JobRunning, JobProvisioningData: &api.JobProvisioningData{
		Backend: "local", Hostname: &host, SSHPort: &job.Addr.Port, Username: "root",
	}}
}

const attached = `Attached to run hi (replica=0 job=0)
To connect to the run via SSH, use ` + "`ssh hi`" + `.
Press Ctrl+C to detach...
`

func TestAttach(t *testing.T) {
	for name, tt := range map[string]struct {
		args   []string
		script func(t *testing.T, s *fakeServer, u *user, detach func(), elsewhere *attachtest.Server)
		code   int
		want   string
	}{
		"Ctrl+C detaches": {
			script: func(_ *testing.T, _ *fakeServer, _ *user, detach func(), _ *attachtest.Server) { detach() },
			want:   attached + "\nDetached\n",
		},
		"it ends with its run": {
			script: func(_ *testing.T, s *fakeServer, _ *user, _ func(), _ *attachtest.Server) {
				s.status(api.RunTerminated, api.JobTerminated, "stopped")
			},
			code: 1,
			want: attached + "Stopped\n",
		},
		"it prints the log": {
			args: []string{"--logs"},
			script: func(_ *testing.T, s *fakeServer, _ *user, _ func(), _ *attachtest.Server) {
				s.write("s0", "hi\n")
				s.closeLog("s0")
				s.status(api.RunDone, api.JobDone, "exited (0)")
			},
			want: attached + "hi\nExited (0)\n",
		},
		"it goes on where the job is started again": {
			script: func(t *testing.T, s *fakeServer, u *user, _ func(), elsewhere *attachtest.Server) {
				s.change(func() { s.run.Jobs[0].JobSubmissions = append(s.run.Jobs[0].JobSubmissions, on("s1", elsewhere)) })
				u.out.shows(t, attached+attached)
				config, err := os.ReadFile(filepath.Join(u.Home, ".dstack", "ssh", "config"))
				if port := "Port " + strings.TrimPrefix(elsewhere.Addr.String(), "127.0.0.1:"); err != nil || !strings.Contains(string(config), port) {
					t.Errorf("SSH configuration: %v, want %s\n%s", err, port, config)
				}
				s.status(api.RunDone, api.JobDone, "exited (0)")
			},
			want: attached + attached + "Exited (0)\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFakeServer(t)
			s.run = submitted(t)
			name := "hi"
			s.run.RunSpec.RunName = &name
			s.run.RunSpec.Configuration = parsedTask(t)
			key, public := identity(t)
			s.run.Jobs[0].JobSubmissions[0] = on("s0", attachtest.Serve(t, "root", public, nil))
			s.run.Status = api.RunRunning
			elsewhere := attachtest.Serve(t, "root", public, nil)
			u := newUser(t, s, "")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				u.out.shows(t, attached)
				tt.script(t, s, u, cancel, elsewhere)
			})
			code := u.do(ctx, append([]string{"attach", "hi", "--ssh-identity", key}, tt.args...)...)
			wg.Wait()
			if code != tt.code {
				t.Errorf("exit code %d, want %d\n%s", code, tt.code, u.talk.String())
			}
			if diff := cmp.Diff(tt.want, u.out.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s\n%s", diff, u.talk.String())
			}
			if config, err := os.ReadFile(filepath.Join(u.Home, ".dstack", "ssh", "config")); err != nil || len(config) > 0 {
				t.Errorf("SSH configuration afterwards: %v\n%s", err, config)
			}
		})
	}
}
