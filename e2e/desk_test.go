//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
)

// desk is a network namespace beside the hosts: another user's machine. Published clients look
// for free local ports, let go of them, and have ssh take them, so two of them on one machine
// can take each other's.
type desk struct{ namespace string }

// desks counts the desks of this process, for their names and addresses.
var desks atomic.Uint32

// newDesk makes a desk on the network of the hosts and removes it at the end of the test.
func newDesk(t *testing.T) *desk {
	t.Helper()
	n := desks.Add(1)
	d := &desk{namespace: fmt.Sprintf("%s-%d", network, n)}
	cable := fmt.Sprintf("desk%d-%d", os.Getpid()%100_000, n)
	bridge := "br-" + strings.TrimSpace(docker(t, "network", "inspect", "-f", "{{.Id}}", network))[:12]
	subnet := hostsSubnet(t)
	last := subnet.Addr().As4()
	last[3] = byte(255 - n)                                                         // the engine gives addresses of the lower half
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", d.namespace).Run() }) // the cable goes with it
	for _, step := range []string{
		"netns add " + d.namespace,
		"link add " + cable + " type veth peer name eth0 netns " + d.namespace,
		"link set " + cable + " master " + bridge + " up",
		"-n " + d.namespace + " link set lo up",
		"-n " + d.namespace + " link set eth0 up",
		fmt.Sprintf("-n %s addr add %s/%d dev eth0", d.namespace, netip.AddrFrom4(last), subnet.Bits()),
	} {
		if out, err := exec.Command("ip", strings.Fields(step)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", step, err, out)
		}
	}
	return d
}

// hostsSubnet is the subnet of the hosts; the test itself has its first address.
func hostsSubnet(t *testing.T) netip.Prefix {
	t.Helper()
	subnet, err := netip.ParsePrefix(strings.TrimSpace(docker(t, "network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}}{{end}}", network)))
	if err != nil {
		t.Fatal(err)
	}
	return subnet
}
