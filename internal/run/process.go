package run

import (
	"context"
	"slices"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
)

// onHost adapts a job's command to where it runs: on a host without a container engine
// there is no default image, so the Python environment that its commands begin with cannot
// be made and the host's own Python serves.
func (s *Service) onHost(ctx context.Context, instanceID string, spec api.RunSpec, argv []string) ([]string, error) {
	inst, err := s.Instances.Get(ctx, s.DB.Read(), instanceID)
	if err != nil || inst.Data.Host == nil || inst.Data.Host.Runtime != "process" {
		return slices.Clone(argv), err
	}
	return withoutVenv(spec.Configuration.Common(), argv), nil
}

// withoutVenv cuts what jobCommands puts before the commands of a run with the default image.
func withoutVenv(c *config.RunCommon, argv []string) []string {
	out := slices.Clone(argv)
	if n := len(out); n > 0 && c.Entrypoint == nil {
		out[n-1] = strings.TrimPrefix(out[n-1], config.JoinCommands(venv(c))+" && ")
	}
	return out
}
