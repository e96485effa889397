package sim

import (
	"fmt"
	"strconv"
	"strings"
)

// want is what a run asks for, of what the simulated clouds have in different ways.
type want struct {
	nodes, gpus int
	spot        string // the policy
	retry       policy
}

func wantOf(config object) want {
	w := want{nodes: 1, spot: "on-demand", retry: policyOf(config)}
	if n, ok := config["nodes"].(int); ok {
		w.nodes = n
	}
	if p, ok := config["spot_policy"].(string); ok {
		w.spot = p
	}
	if r, ok := config["resources"].(object); ok && r["gpu"] != nil {
		w.gpus = 1
		if n, err := strconv.Atoi(strings.TrimSuffix(fmt.Sprint(r["gpu"]), "..")); err == nil {
			w.gpus = n
		}
	}
	return w
}

// placesFit is I20: a job gets a place that is what its run asks for, and nodes of a cluster all get theirs
// in one fleet that is a cluster.
func placesFit(s *state) (bad []string) {
	if s.prev == nil {
		return nil
	}
	was := map[string]string{}
	for _, j := range s.prev.jobs {
		was[j.id] = j.status
	}
	instances := s.instancesByID()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for _, j := range s.jobs {
		w, known := s.w.wants[s.runs[j.run].name]
		if !known || !j.placed() || was[j.id] != "submitted" && was[j.id] != "" {
			continue
		}
		fleet := instances[j.instance].fleet
		switch {
		case j.gpus < w.gpus:
			bad = append(bad, fmt.Sprintf("job %s, which needs %d GPUs, is placed on %d", j.name, w.gpus, j.gpus))
		case j.spot && w.spot == "on-demand":
			bad = append(bad, fmt.Sprintf("job %s, which is to be on-demand, is placed on spot", j.name))
		case w.nodes > 1 && !s.clusters[fleet]:
			bad = append(bad, fmt.Sprintf("job %s, one of %d nodes, is placed in a fleet that is no cluster", j.name, w.nodes))
		}
		for _, other := range s.jobs {
			if w.nodes > 1 && other.run == j.run && other.replica == j.replica && other.placed() && instances[other.instance].fleet != fleet {
				bad = append(bad, fmt.Sprintf("jobs %s and %s of a cluster are placed in two fleets", j.name, other.name))
			}
		}
	}
	return bad
}
