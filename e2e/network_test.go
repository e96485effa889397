//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestNetworks runs tasks where a server's operator chose which containers use the network of their host.
func TestNetworks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	machines := w.startHosts(2, hostOptions{})
	w.clusterOf("pair", machines, "")
	for _, c := range []struct {
		mode           string // DSTACK_SERVER_JOB_NETWORK_MODE
		nodes          int
		network, about string
	}{
		{"2", 1, "host", "a job that has a host to itself"},
		{"1", 1, "own", "a job that has a host to itself, where only those of several nodes use its network"},
		{"1", 2, "host", "a job of several nodes"},
		{"3", 2, "own", "a job of several nodes, where none uses its host's network"},
	} {
		w.stopServer(syscall.SIGTERM)
		w.extra = []string{"DSTACK_SERVER_JOB_NETWORK_MODE=" + c.mode}
		w.startServer()
		name := fmt.Sprintf("net-%s-%d", c.mode, c.nodes)
		w.write(name+".dstack.yml", fmt.Sprintf(`
type: task
name: %s
nodes: %d
image: job:1
commands:
  - for a in %s %s; do if grep -q "$a\$" /proc/net/fib_trie; then echo network=host; exit; fi; done
  - echo network=own
%s`, name, c.nodes, machines[0].Addr, machines[1].Addr, anyResources))
		w.must("apply", "-y", "-d", "-f", name+".dstack.yml")
		w.waitStatus(name, "done")
		for node := range c.nodes {
			if logs := w.must("logs", name, "--job", fmt.Sprint(node)).Out; !strings.Contains(logs, "network="+c.network) {
				t.Errorf("mode %s, %s: %q, want %s", c.mode, c.about, logs, c.network)
			}
		}
	}
	noContainers(t, machines)
}

// TestSSHProxy has a server whose users reach their jobs through an SSH proxy only. The test is the proxy.
func TestSSHProxy(t *testing.T) {
	t.Parallel()
	w := prepareWorld(t)
	w.extra = []string{"DSTACK_SERVER_SSHPROXY_ADDRESS=127.0.0.1:30022", "DSTACK_SSHPROXY_API_TOKEN=proxy-token", "DSTACK_SERVER_SSHPROXY_ENFORCED=1"}
	w.startServer()
	w.login()
	m := w.startHost(hostOptions{})
	w.fleet("boxes", m)
	w.steady("job")
	var run struct {
		RunSpec struct {
			Key string `json:"ssh_key_pub"`
		} `json:"run_spec"`
		Jobs []struct {
			Submissions []struct {
				ID string `json:"id"`
			} `json:"job_submissions"`
			Connection struct {
				Proxied []string `json:"proxied_ssh_command"`
			} `json:"job_connection_info"`
		} `json:"jobs"`
	}
	if status := w.api("/api/project/main/runs/get", map[string]string{"run_name": "job"}, &run); status != http.StatusOK {
		t.Fatal(status)
	}
	id := run.Jobs[0].Submissions[0].ID
	if want := "ssh " + strings.ReplaceAll(id, "-", "") + "@127.0.0.1 -p 30022"; strings.Join(run.Jobs[0].Connection.Proxied, " ") != want {
		t.Errorf("users are told %q, want %q", run.Jobs[0].Connection.Proxied, want)
	}

	up := w.upstream(id)
	if len(up.Hosts) != 2 {
		t.Fatalf("%d hosts lead to the job, want its host and itself", len(up.Hosts))
	}
	users := strings.Fields(run.RunSpec.Key)[1]
	if !strings.Contains(strings.Join(up.Keys, "\n"), users) {
		t.Errorf("the proxy is to let in %q, without the run's key", up.Keys)
	}
	if out, err := up.exec("echo I am $DSTACK_RUN_NAME"); err != nil || out != "I am job\n" {
		t.Errorf("through the proxy: %q, %v", out, err)
	}

	// The user's own key leads nowhere: not to the host, and not from there into the container.
	if keys := m.keys(); strings.Contains(keys, users) {
		t.Errorf("the host lets the user in:\n%s", keys)
	}
	var me struct {
		Private string `json:"ssh_private_key"`
	}
	if status := w.api("/api/users/get_my_user", nil, &me); status != http.StatusOK || me.Private == "" {
		t.Fatalf("the user's key: %d", status)
	}
	up.Hosts[1].PrivateKey = me.Private
	if out, err := up.exec("true"); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
		t.Errorf("with the user's key: %q, %v", out, err)
	}
	letGo(t, []*machine{m}, "job")
	w.checkSteady("job")
	noContainers(t, []*machine{m})
}

// upstream is the way to a job.
type upstream struct {
	Hosts []struct {
		Host       string `json:"host"`
		Port       int    `json:"port"`
		User       string `json:"user"`
		PrivateKey string `json:"private_key"`
	} `json:"hosts"`
	Keys []string `json:"authorized_keys"`
}

// upstream asks for the way to a job as an SSH proxy does.
func (w *world) upstream(job string) (up upstream) {
	w.t.Helper()
	user := w.token
	defer func() { w.token = user }()
	w.token = "proxy-token"
	if status := w.api("/api/sshproxy/get_upstream", map[string]string{"id": strings.ReplaceAll(job, "-", "")}, &up); status != http.StatusOK {
		w.t.Fatalf("the way to the job: %d", status)
	}
	return up
}

// exec runs a command in the job, from host to host.
func (up upstream) exec(command string) (string, error) {
	dial := net.Dial
	var last *ssh.Client
	for _, h := range up.Hosts {
		key, err := ssh.ParsePrivateKey([]byte(h.PrivateKey))
		if err != nil {
			return "", err
		}
		addr := net.JoinHostPort(h.Host, fmt.Sprint(h.Port))
		conn, err := dial("tcp", addr)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		c, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
			User: h.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
		})
		if err != nil {
			return "", err
		}
		last = ssh.NewClient(c, chans, reqs)
		dial = last.Dial
	}
	session, err := last.NewSession()
	if err != nil {
		return "", err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := session.Start(command); err != nil {
		return "", err
	}
	text, err := io.ReadAll(out)
	if err != nil {
		return "", err
	}
	return string(text), session.Wait()
}
