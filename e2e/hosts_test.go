//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// hostFlags make a container a machine: --privileged is not possible everywhere, since it
// asks for CAP_SYS_RESOURCE.
var hostFlags = []string{
	"--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
	"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined",
	"--device-cgroup-rule", "a *:* rwm", "-v", "/sys/fs/cgroup:/sys/fs/cgroup",
}

// network is a Docker network of this process. On the engine's own bridge, what another
// engine left behind may answer in the place of our machines.
var network = fmt.Sprintf("dstack-e2e-%d", os.Getpid())

func TestMain(m *testing.M) {
	if err := createNetwork(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	var out []byte
	var err error
	for range 30 { // a machine may still be on its way out of it
		if out, err = exec.Command("docker", "network", "rm", network).CombinedOutput(); err == nil {
			break
		}
		wait(time.Second)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "remove the network of the suite: %v\n%s", err, out)
		code = max(code, 1)
	}
	os.Exit(code)
}

// createNetwork tries some subnets: others may be in use.
func createNetwork() error {
	var out []byte
	var err error
	for n := range 20 {
		subnet := fmt.Sprintf("10.%d.%d.0/24", 200+n, os.Getpid()%250)
		out, err = exec.Command("docker", "network", "create", "--subnet", subnet, network).CombinedOutput()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("create a network for the hosts: %w\n%s", err, out)
}

// machine is one host container.
type machine struct {
	t    *testing.T
	ID   string // of the container
	Addr string // on the Docker bridge
}

type hostOptions struct {
	NoDocker  bool
	NoImages  bool
	Reboots   bool   // /run is empty after a restart, as on a machine
	SmallDisk bool   // file systems in memory for the agent and for Docker, which can be made small
	Key       string // who may log in, "" for w's
}

// hosts counts the machines of this process, for their addresses.
var hosts atomic.Uint32

// hostAddress is one that no other machine has had. One that the engine gives goes to another
// container while a machine restarts.
func hostAddress(t *testing.T) string {
	t.Helper()
	n := 1 + hosts.Add(1) // the first is the test's own
	if n > lastHost {
		t.Fatalf("more than %d hosts", lastHost)
	}
	a := hostsSubnet(t).Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a).String()
}

// lastHost is the last byte of the highest address of a machine; those above are for desks.
const lastHost = 200

// startHost starts a machine that accepts w's key, loads the job images into it, and
// removes it at the end of the test.
func (w *world) startHost(o hostOptions) *machine {
	w.t.Helper()
	args := []string{"run", "-d", "--network", network, "--ip", hostAddress(w.t), "-e", "AUTHORIZED_KEY=" + cmp.Or(o.Key, w.publicKey)}
	if o.NoDocker {
		args = append(args, "-e", "NO_DOCKER=1")
	}
	if o.Reboots {
		args = append(args, "--tmpfs", "/run:exec")
	}
	if o.SmallDisk {
		args = append(args, "--tmpfs", "/var/lib/dstack:size=2g,exec", "--tmpfs", "/var/lib/docker:size=4g,exec")
	} else {
		args = append(args, "-v", "/var/lib/docker")
	}
	args = append(args, hostFlags...)
	id := strings.TrimSpace(docker(w.t, append(args, "dstack-e2e-host:"+tag(w.t))...))
	m := &machine{t: w.t, ID: id}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			logs, _ := exec.Command("docker", "logs", "--tail", "40", id).CombinedOutput()
			w.t.Logf("console of %s:\n%s", m.Addr, logs)
			w.t.Logf("agent log of %s:\n%s", m.Addr, m.try("sh", "-c", "tail -n 40 /var/lib/dstack/*.log 2>/dev/null"))
		}
		for range 5 { // a busy engine may not come to it
			if exec.Command("docker", "rm", "-f", "-v", id).Run() == nil {
				break
			}
			wait(2 * time.Second)
		}
	})
	m.Addr = strings.TrimSpace(docker(w.t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id))
	eventually(w.t, 20*time.Second, "sshd of the host answers", func() bool {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(m.Addr, "22"), time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		banner := make([]byte, 4)
		_, err = c.Read(banner)
		return err == nil && string(banner) == "SSH-"
	})
	if o.NoDocker {
		return m
	}
	eventually(w.t, 30*time.Second, "Docker on the host answers", func() bool { return m.run("docker", "info") == nil })
	if !o.NoImages {
		m.load("dstack-e2e-job:"+tag(w.t), "job:1")
		m.load(staticImage(w.t), "static:1")
	}
	return m
}

// load copies an image from the outer engine into the host's.
func (m *machine) load(image, name string) {
	m.t.Helper()
	cmd := exec.Command("sh", "-c", fmt.Sprintf("docker save %s | docker exec -i %s docker load && docker exec %s docker tag %s %s", image, m.ID, m.ID, image, name))
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("load %s: %v\n%s", image, err, out)
	}
}

func (m *machine) run(args ...string) error {
	return exec.Command("docker", append([]string{"exec", m.ID}, args...)...).Run()
}

// out runs a command on the machine and returns its output.
func (m *machine) out(args ...string) string {
	m.t.Helper()
	return docker(m.t, append([]string{"exec", m.ID}, args...)...)
}

func (m *machine) try(args ...string) string {
	out, _ := exec.Command("docker", append([]string{"exec", m.ID}, args...)...).CombinedOutput()
	return string(out)
}

// containers lists the names of the job containers on the machine, running or not.
func (m *machine) containers() []string {
	m.t.Helper()
	return strings.Fields(m.out("docker", "ps", "-a", "--format", "{{.Names}}"))
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

func tag(t *testing.T) string {
	t.Helper()
	v := os.Getenv("E2E_TAG")
	if v == "" {
		t.Fatal("E2E_TAG is not set; run make e2e")
	}
	return v
}

// staticImage builds an image that holds one static program and nothing else: no shell,
// no package manager, no /etc.
func staticImage(t *testing.T) string {
	t.Helper()
	name := "dstack-e2e-static:" + tag(t)
	load := exec.Command("sh", "-c", fmt.Sprintf(`tar -C %s -c probe | docker import -c 'ENTRYPOINT ["/probe"]' - %s`, buildProbe(t), name))
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("import the probe: %v\n%s", err, out)
	}
	return name
}

// probeImage is the image of jobs with the probe beside its shell.
func probeImage(t *testing.T) string {
	t.Helper()
	name := "dstack-e2e-probe:" + tag(t)
	id := strings.TrimSpace(docker(t, "create", "dstack-e2e-job:"+tag(t)))
	docker(t, "cp", filepath.Join(buildProbe(t), "probe"), id+":/probe")
	docker(t, "commit", id, name)
	docker(t, "rm", id)
	return name
}

// sshImage is the image of jobs with the hosts' SSH client.
func sshImage(t *testing.T) string {
	t.Helper()
	name := "dstack-e2e-ssh:" + tag(t)
	id := strings.TrimSpace(docker(t, "create", "dstack-e2e-job:"+tag(t)))
	pack := exec.Command("sh", "-c", fmt.Sprintf(`docker run --rm --entrypoint sh dstack-e2e-host:%s -c 'tar -ch /usr/bin/ssh $(ldd /usr/bin/ssh | grep -o "/[^ ]*")' | docker cp - %s:/`, tag(t), id))
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("copy the SSH client: %v\n%s", err, out)
	}
	docker(t, "commit", id, name)
	docker(t, "rm", id)
	return name
}

// buildProbe builds the probe and returns the folder that it is in.
func buildProbe(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "probe"), "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	return dir
}

// newKey writes an SSH key pair and returns the private key's path and the public line.
func newKey(t *testing.T, dir string) (path, public string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "id_ed25519")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	public = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPub)))
	if err := os.WriteFile(path+".pub", []byte(public+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path, public
}
