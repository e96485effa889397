package jobspec

import (
	"slices"

	"dstack/internal/api"
	"dstack/internal/config"
)

// A Group is a set of equal replicas of a run. A run that is no service, and a service
// without groups, has one.
type Group struct {
	Name     string
	Min, Max int
	Scaling  *config.Scaling // nil: the number is fixed
	Router   bool
}

// OnlyGroup is the name of the group of a run that has no groups of replicas.
const OnlyGroup = "0"

// Groups lists the groups of a run in the order of its configuration.
func Groups(a config.AnyRun) []Group {
	sv := a.Service
	switch {
	case sv == nil, sv.Groups == nil && sv.Replicas == nil:
		return []Group{{Name: OnlyGroup, Min: 1, Max: 1}}
	case sv.Groups == nil:
		return []Group{{Name: OnlyGroup, Min: *sv.Replicas.Min, Max: *sv.Replicas.Max, Scaling: sv.Scaling}}
	}
	list := make([]Group, len(sv.Groups))
	for i, g := range sv.Groups {
		list[i] = Group{Name: *g.Name, Min: *g.Replicas.Min, Max: *g.Replicas.Max, Scaling: g.Scaling, Router: g.Router != nil}
	}
	return list
}

// Scales says that some group of a service has as many replicas as requests need.
func Scales(sv *config.Service) bool {
	return slices.ContainsFunc(Groups(config.AnyRun{Service: sv}), func(g Group) bool { return g.Scaling != nil })
}

// OfGroup is a run's specification as the replicas of one of its groups have it: what
// the group leaves open is the service's.
func OfGroup(spec api.RunSpec, name string) api.RunSpec {
	sv := spec.Configuration.Service
	if sv == nil {
		return spec
	}
	i := slices.IndexFunc(sv.Groups, func(g config.ReplicaGroup) bool { return *g.Name == name })
	if i < 0 {
		return spec
	}
	g, one := sv.Groups[i], *sv
	one.Groups, one.Replicas, one.Scaling = nil, &g.Replicas, g.Scaling
	one.Commands, one.Resources = g.Commands, g.Resources
	set(&one.Image, g.Image)
	set(&one.Python, g.Python)
	set(&one.NVCC, g.NVCC)
	set(&one.Docker, g.Docker)
	set(&one.SpotPolicy, g.SpotPolicy)
	set(&one.Reservation, g.Reservation)
	if g.Privileged != nil {
		one.Privileged = *g.Privileged
	}
	spec.Configuration = config.AnyRun{Service: &one}
	return spec
}

// set overrides a value where another is given.
func set[T any](to **T, v *T) {
	if v != nil {
		*to = v
	}
}
