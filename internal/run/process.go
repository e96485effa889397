package run

import (
	"context"
	"slices"

	"dstack/internal/jobspec"
)

// onHost adapts a job's command to where it runs: on a host without a container engine
// there is no default image, so the Python environment that its commands begin with cannot
// be made and the host's own Python serves.
func (s *Service) onHost(ctx context.Context, instanceID string, argv []string) ([]string, error) {
	inst, err := s.Instances.Get(ctx, s.DB.Read(), instanceID)
	if err != nil || inst.Data.Host == nil || inst.Data.Host.Runtime != "process" {
		return slices.Clone(argv), err
	}
	return jobspec.WithoutVenv(argv), nil
}
