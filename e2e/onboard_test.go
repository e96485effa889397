//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestOnboardingErrors shows that everything that can be wrong with a host is said in words.
func TestOnboardingErrors(t *testing.T) {
	w := newWorld(t)
	good := w.startHost(hostOptions{NoImages: true})
	bare := w.startHost(hostOptions{NoDocker: true})
	skewed := w.startHost(hostOptions{NoImages: true})
	skewed.out("sh", "-c", "printf '#!/bin/sh\\necho 1000000000\\n' >/usr/local/bin/date; chmod 0755 /usr/local/bin/date")
	full := w.startHost(hostOptions{NoImages: true})
	full.out("sh", "-c", "mkdir /var/lib/dstack && mount -t tmpfs -o size=16m none /var/lib/dstack")
	otherKey, _ := newKey(t, t.TempDir())
	before := map[string]string{}
	hosts := map[string]*machine{"no-docker": bare, "no-sudo": good, "wrong-key": good, "clock": skewed, "disk": full}
	for name, m := range hosts {
		before[name] = m.traces()
	}

	for _, c := range []struct{ name, host, user, key, want string }{
		{"no-docker", bare.Addr, "root", w.key, "Docker"},
		{"no-sudo", good.Addr, "nosudo", w.key, "sudo"},
		{"wrong-key", good.Addr, "root", otherKey, "key"},
		{"down", "127.0.0.1:1", "root", w.key, "refused"},
		{"clock", skewed.Addr, "root", w.key, "clock"},
		{"disk", full.Addr, "root", w.key, "MiB are free"},
	} {
		t.Run(c.name, func(t *testing.T) {
			outer := w.t
			w.t = t
			defer func() { w.t = outer }()
			host, port, _ := strings.Cut(c.host, ":")
			if port == "" {
				port = "22"
			}
			w.write(c.name+".dstack.yml", fmt.Sprintf("type: fleet\nname: %s\nssh_config:\n  user: %s\n  identity_file: %s\n  hosts:\n    - hostname: %s\n      port: %s\n", c.name, c.user, c.key, host, port))
			w.must("apply", "-y", "-d", "-f", c.name+".dstack.yml")
			eventually(t, 40*time.Second, "the reason is shown: "+c.want, func() bool {
				return strings.Contains(w.run("fleet", "get", c.name, "--json").both()+w.run("fleet", "-v").both()+w.run("event", "list", "--target-fleet", c.name).both(), c.want)
			})
			w.must("delete", "-y", "-f", c.name+".dstack.yml") // waits until the host is free again
			if m := hosts[c.name]; m != nil {
				eventually(t, 20*time.Second, "the host is as it was", func() bool { return m.traces() == before[c.name] })
			}
		})
	}
}

// TestSudoUserAndSharedHost adds a host by a user with sudo and shares it between two jobs.
func TestSudoUserAndSharedHost(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{})
	w.write("shared.dstack.yml", fmt.Sprintf("type: fleet\nname: shared\nblocks: 2\nssh_config:\n  user: ubuntu\n  identity_file: %s\n  hosts:\n    - %s\n", w.key, m.Addr))
	w.must("apply", "-y", "-f", "shared.dstack.yml")
	eventually(t, 60*time.Second, "the host is idle", func() bool { return strings.Contains(w.run("fleet").Out, "0/2 busy") })
	for _, name := range []string{"one", "two"} {
		w.write(name+".dstack.yml", "type: task\nname: "+name+"\nimage: job:1\ncommands:\n  - while true; do sleep 1; done\n"+anyResources)
		w.must("apply", "-y", "-d", "-f", name+".dstack.yml")
	}
	w.waitStatus("one", "running")
	w.waitStatus("two", "running")
	if n := len(m.containers()); n != 2 {
		t.Errorf("%d containers on the shared host, want 2", n)
	}
	w.must("stop", "-x", "-y", "one")
	w.must("stop", "-x", "-y", "two")
	noTraces(t, w, m)
}

// TestHostOfAnotherServer adds a host to a second server while the first has a run on it, and takes it away
// again: the run goes on. When the first server is gone and its agent is taken off, the host is the second's.
func TestHostOfAnotherServer(t *testing.T) {
	first, second := newWorld(t), newWorld(t)
	m := first.startHost(hostOptions{})
	m.out("sh", "-c", "echo '"+strings.TrimSpace(second.publicKey)+"' >>/root/.ssh/authorized_keys")
	first.fleetOf("boxes", m, "")
	first.write("task.dstack.yml", "type: task\nname: long\nimage: job:1\ncommands:\n  - while true; do sleep 1; done\n"+anyResources)
	first.must("apply", "-y", "-d", "-f", "task.dstack.yml")
	first.waitStatus("long", "running")
	ours := m.out("ls", "-l", "--full-time", "/usr/local/bin/dstack-agent")

	fleet := second.write("taken.dstack.yml", fmt.Sprintf("type: fleet\nname: taken\nssh_config:\n  user: root\n  identity_file: %s\n  hosts:\n    - %s\n", second.key, m.Addr))
	second.must("apply", "-y", "-d", "-f", fleet)
	eventually(t, 60*time.Second, "the second server says whose the host is", func() bool {
		return strings.Contains(second.run("event", "--within-fleet", "taken").Out, "belongs to another dstack server")
	})
	second.must("fleet", "delete", "-y", "taken")
	eventually(t, 60*time.Second, "the second server has no fleet", func() bool { return !strings.Contains(second.run("fleet").Out, "taken") })
	if len(m.containers()) != 1 || first.runStatus("long") != "running" || m.out("ls", "-l", "--full-time", "/usr/local/bin/dstack-agent") != ours {
		t.Errorf("the first server's run is %s in containers %v, the agent is\n%s, was\n%s", first.runStatus("long"), m.containers(), m.out("ls", "-l", "--full-time", "/usr/local/bin/dstack-agent"), ours)
	}

	first.stopServer(syscall.SIGKILL)
	m.out("/usr/local/bin/dstack-agent", "uninstall")
	second.fleetOf("taken", m, "")
}
