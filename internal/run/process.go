package run

import (
	"slices"

	"dstack/internal/instance"
	"dstack/internal/jobspec"
)

// onHost adapts a job's command to where it runs: on a host without a container engine
// there is no default image, so the Python environment that its commands begin with cannot
// be made and the host's own Python serves.
func onHost(host *instance.Instance, argv []string) []string {
	if host.Data.Host == nil || host.Data.Host.Runtime != "process" {
		return slices.Clone(argv)
	}
	return jobspec.WithoutVenv(argv)
}
