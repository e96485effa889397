package run

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/sshkey"
)

// cluster is what a job is told of the nodes of its replica (host-agents 2.5).
func (s *Service) cluster(ctx context.Context, j Job) (agentapi.Cluster, [][]string, error) {
	if j.Data.Spec.JobsPerReplica <= 1 {
		ip := internalIP(j.Data.Provisioning)
		gpus := gpuCount(j)
		return agentapi.Cluster{NodeIPs: []string{ip}, MasterIP: ip, GPUsPerJob: gpus, GPUsPerNode: []int{gpus}}, [][]string{{ip}}, nil
	}
	peers, instances, err := s.nodes(ctx, s.DB.Read(), j)
	if err != nil {
		return agentapi.Cluster{}, nil, err
	}
	c := agentapi.Cluster{GPUsPerJob: gpuCount(j)}
	var groups [][]string
	for _, p := range peers {
		ip := internalIP(provisioning(p, instances[p.InstanceID]))
		c.NodeIPs = append(c.NodeIPs, ip)
		c.GPUsPerNode = append(c.GPUsPerNode, gpuCount(p))
		for len(groups) <= p.Data.Spec.NodeGroupIndex {
			groups = append(groups, nil)
		}
		groups[p.Data.Spec.NodeGroupIndex] = append(groups[p.Data.Spec.NodeGroupIndex], ip)
	}
	c.MasterIP = c.NodeIPs[0]
	pair, err := s.replicaKey(ctx, j)
	c.PrivateKey, c.PublicKey = pair.Private, strings.TrimSpace(pair.Public)
	return c, groups, err
}

// provisioning is where a job runs: as its instance says while the job has not looked yet.
func provisioning(j Job, inst *instance.Instance) *api.JobProvisioningData {
	if inst != nil && inst.Data.Provisioning != nil {
		return inst.Data.Provisioning
	}
	return j.Data.Provisioning
}

func internalIP(jpd *api.JobProvisioningData) string {
	if jpd == nil || jpd.InternalIP == nil {
		return ""
	}
	return *jpd.InternalIP
}

func gpuCount(j Job) int {
	if o := jobRuntimeOffer(j); o != nil {
		return len(o.Instance.Resources.Gpus)
	}
	return 0
}

// replicaKey is the key pair with which the nodes of a replica reach each other. It follows
// from the project's key and the replica, so that it need not be stored.
func (s *Service) replicaKey(ctx context.Context, j Job) (sshkey.Pair, error) {
	_, private, err := s.Projects.ProjectKey(ctx, j.ProjectID)
	if err != nil {
		return sshkey.Pair{}, err
	}
	seed := sha256.Sum256(fmt.Appendf(nil, "replica\x00%s\x00%s\x00%d", private, j.RunID, j.Replica))
	return sshkey.Derive(seed, "dstack")
}
