package run

import (
	"testing"

	"dstack/internal/agentapi"
	"dstack/internal/api"
)

// TestEndpoint checks that nobody reaches what listens on a host through a container that has a
// network of its own.
func TestEndpoint(t *testing.T) {
	const inContainer, onHost, nowhere = "in the container", "on the host", "nowhere"
	for name, c := range map[string]struct {
		dockerized bool
		mode       api.NetworkMode
		ports      map[int]int
		want       string
	}{
		"container on a host":              {true, api.NetworkBridge, map[int]int{agentapi.RunnerSSHPort: 40001}, inContainer},
		"container of the server's engine": {false, api.NetworkBridge, map[int]int{agentapi.RunnerSSHPort: 40001}, inContainer},
		"container with the host's ports":  {true, api.NetworkHost, map[int]int{agentapi.RunnerSSHPort: agentapi.RunnerSSHPort}, onHost},
		"plain process":                    {false, api.NetworkBridge, map[int]int{agentapi.RunnerSSHPort: 40001, agentapi.RunnerHTTPPort: 40002}, onHost},
		"no way into the container yet":    {true, api.NetworkBridge, map[int]int{}, nowhere},
	} {
		t.Run(name, func(t *testing.T) {
			j := Job{Data: JobData{Runtime: &api.JobRuntimeData{NetworkMode: c.mode, Ports: c.ports}, Provisioning: &api.JobProvisioningData{Dockerized: c.dockerized}}}
			j.Data.Spec.ServicePort = ptr(8080)
			e, ok := endpoint(j)
			got := nowhere
			switch {
			case ok && e.SSHPort != 0:
				got = inContainer
			case ok:
				got = onHost
			}
			if got != c.want {
				t.Errorf("requests go to a port %s, want %s", got, c.want)
			}
		})
	}
}
