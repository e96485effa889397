package run

import (
	"testing"

	"dstack/internal/api"
	"dstack/internal/scheduler"
)

func TestNetwork(t *testing.T) {
	type wants struct{ alone, cluster api.NetworkMode }
	for policy, want := range map[Network]wants{
		0:            {api.NetworkHost, api.NetworkHost},
		HostWhole:    {api.NetworkHost, api.NetworkHost},
		HostClusters: {api.NetworkBridge, api.NetworkHost},
		HostNone:     {api.NetworkBridge, api.NetworkBridge},
	} {
		if got := (wants{policy.host(1), policy.host(2)}); got != want {
			t.Errorf("%d: %v, want %v", policy, got, want)
		}
	}
	for name, tt := range map[string]struct {
		node   scheduler.Node
		blocks int
		whole  api.NetworkMode
		want   api.NetworkMode
	}{
		"all of a host":            {scheduler.Node{Blocks: 2}, 2, api.NetworkHost, api.NetworkHost},
		"all of a host, but apart": {scheduler.Node{Blocks: 2}, 2, api.NetworkBridge, api.NetworkBridge},
		"half of it":               {scheduler.Node{Blocks: 1}, 2, api.NetworkHost, api.NetworkBridge},
		"all of the server's own":  {scheduler.Node{Blocks: 1, Offer: api.InstanceOffer{Backend: "local"}}, 1, api.NetworkHost, api.NetworkBridge},
	} {
		if got := runtimeData(tt.node, tt.blocks, tt.whole).NetworkMode; got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}
