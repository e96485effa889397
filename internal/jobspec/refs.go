package jobspec

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
)

// What commands may refer to in `${{ groups[i].nodes[j].IP_ADDRESS }}`: the nodes of a task's
// groups, or the replicas of a service's.
const (
	nodeMember    = "nodes"
	ReplicaMember = "replicas"
)

// groupRef is a reference to a group; one that begins with $$ is left alone.
var groupRef = regexp.MustCompile(`\$?\$\{\{\s*(groups[^}]*?)\s*\}\}`)

var memberIP = regexp.MustCompile(`^groups\[(\d+)\]\.(nodes|replicas)\[(\d+)\]\.IP_ADDRESS$`)

// ErrOutOfRange says that there is no such group, or no such member of it.
var ErrOutOfRange = errors.New("out of range")

// RefersTo says that commands name an address of a group's member.
func RefersTo(commands []string) bool {
	return slices.ContainsFunc(commands, func(c string) bool {
		return slices.ContainsFunc(groupRef.FindAllString(c, -1), func(ref string) bool { return !strings.HasPrefix(ref, "$$") })
	})
}

// ReplaceRefs replaces the references to groups by what address says, which gets a group and a
// member of it. The first that it cannot replace is the error.
func ReplaceRefs(text, member string, address func(group, n int) (string, error)) (string, error) {
	var failed error
	out := groupRef.ReplaceAllStringFunc(text, func(ref string) string {
		if failed != nil || strings.HasPrefix(ref, "$$") {
			return ref
		}
		name := groupRef.FindStringSubmatch(ref)[1]
		g, n, of, ok := parseRef(name)
		if ok {
			name = fmt.Sprintf("groups[%d].%s[%d].IP_ADDRESS", g, of, n)
		}
		if of != member {
			failed = fmt.Errorf("Illegal reference name: %s", name)
			return ref
		}
		ip, err := "", ErrOutOfRange
		if ok {
			ip, err = address(g, n)
		}
		switch {
		case err != nil:
			failed = fmt.Errorf("Invalid reference %s: %w", name, err)
		case ip == "":
			failed = fmt.Errorf("IP not available for %s", name)
		}
		return ip
	})
	if failed != nil {
		return "", failed
	}
	return out, nil
}

// parseRef takes a reference apart; of is "" when it is none, and ok is false when it is one
// with a number that no group can have.
func parseRef(name string) (group, n int, of string, ok bool) {
	m := memberIP.FindStringSubmatch(name)
	if m == nil {
		return 0, 0, "", false
	}
	group, err1 := strconv.Atoi(m[1])
	n, err2 := strconv.Atoi(m[3])
	return group, n, m[2], err1 == nil && err2 == nil
}

// Interpolate fills in the addresses of the members of groups, "" for those that are not
// known.
func Interpolate(text, member string, groups [][]string) (string, error) {
	return ReplaceRefs(text, member, func(g, n int) (string, error) {
		if g >= len(groups) || n >= len(groups[g]) {
			return "", ErrOutOfRange
		}
		return groups[g][n], nil
	})
}

// checkGroupRefs refuses references to members of groups that will not be there when a job
// starts.
func checkGroupRefs(spec *api.RunSpec) error {
	a := spec.Configuration
	for _, v := range a.Common().Env {
		for _, ref := range groupRef.FindAllString(v.Value, -1) {
			if !strings.HasPrefix(ref, "$$") {
				return api.Invalid("groups IP references are only supported in commands, not in `env`")
			}
		}
	}
	sizes := Sizes(a)
	for _, command := range Commands(a) {
		_, err := ReplaceRefs(command, MemberOf(a), func(g, n int) (string, error) {
			switch {
			case g < len(sizes) && sizes[g] == 0:
				return "", errors.New("this group scales to zero, so no replica is guaranteed at start")
			case g >= len(sizes) || n >= sizes[g]:
				return "", ErrOutOfRange
			}
			return "an address", nil
		})
		if err != nil {
			return api.Invalid("%v", err)
		}
	}
	return nil
}

// MemberOf is what the commands of a run call the members of its groups.
func MemberOf(a config.AnyRun) string {
	if a.Service != nil {
		return ReplicaMember
	}
	return nodeMember
}

// Sizes are how many members each group of a run has from its start on.
func Sizes(a config.AnyRun) []int {
	var sizes []int
	switch {
	case a.Task != nil && a.Task.Groups != nil:
		for _, g := range a.Task.Groups {
			sizes = append(sizes, g.Nodes)
		}
	case a.Service != nil && a.Service.Groups != nil:
		for _, g := range a.Service.Groups {
			sizes = append(sizes, *g.Replicas.Min)
		}
	case a.Task != nil && a.Task.Nodes != nil:
		sizes = append(sizes, *a.Task.Nodes)
	case a.Service != nil && a.Service.Replicas != nil:
		sizes = append(sizes, *a.Service.Replicas.Min)
	default:
		sizes = append(sizes, 1)
	}
	return sizes
}

// Commands are those of all groups of a run.
func Commands(a config.AnyRun) []string {
	var all []string
	switch {
	case a.Task != nil:
		all = append(all, a.Task.Commands...)
		for _, g := range a.Task.Groups {
			all = append(all, g.Commands...)
		}
	case a.Service != nil:
		all = append(all, a.Service.Commands...)
		for _, g := range a.Service.Groups {
			all = append(all, g.Commands...)
		}
	case a.DevEnvironment != nil:
		all = append(all, a.DevEnvironment.Init...)
	}
	return all
}
