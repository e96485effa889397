package apply

import (
	"fmt"
	"slices"

	"dstack/internal/config"
)

// ports applies the ports of the command line to a configuration that has any.
func (o Options) ports(run *config.AnyRun) error {
	var ports *[]config.PortMapping
	switch {
	case run.Task != nil:
		ports = &run.Task.Ports
	case run.DevEnvironment != nil:
		ports = &run.DevEnvironment.Ports
	default:
		return nil
	}
	given := make([]config.PortMapping, len(o.Ports))
	for i, s := range o.Ports {
		var err error
		if given[i], err = config.ParsePort(s); err != nil {
			return fmt.Errorf("-p %s: %w", s, err)
		}
	}
	merged, err := mergePorts(*ports, given)
	if err == nil {
		*ports = merged
	}
	return err
}

// mergePorts gives the ports of a file the local ports of those given with the same container
// port, and adds the other given ones. No port may be there twice in any of the lists.
func mergePorts(file, given []config.PortMapping) ([]config.PortMapping, error) {
	merged := slices.Clone(file)
	for _, g := range given {
		i := slices.IndexFunc(file, func(p config.PortMapping) bool { return p.ContainerPort == g.ContainerPort })
		if i < 0 {
			merged = append(merged, g)
		} else {
			merged[i] = g
		}
	}
	for _, list := range [][]config.PortMapping{file, given, merged} {
		if err := unique(list); err != nil {
			return nil, err
		}
	}
	return merged, nil
}

func unique(ports []config.PortMapping) error {
	container, local := map[int]bool{}, map[int]bool{}
	for _, p := range ports {
		if container[p.ContainerPort] {
			return fmt.Errorf("Port %d is already in use", p.ContainerPort)
		}
		container[p.ContainerPort] = true
		if p.LocalPort != nil {
			if local[*p.LocalPort] {
				return fmt.Errorf("Port %d is already in use", *p.LocalPort)
			}
			local[*p.LocalPort] = true
		}
	}
	return nil
}
