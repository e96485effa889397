package run

import (
	"context"
	"slices"
	"strings"

	"dstack/internal/config"
)

// onHost adapts a job's command to where it runs: on a host without a container engine
// there is no default image, so the Python environment that its commands begin with cannot
// be made and the host's own Python serves.
func (s *Service) onHost(ctx context.Context, instanceID string, argv []string) ([]string, error) {
	inst, err := s.Instances.Get(ctx, s.DB.Read(), instanceID)
	if err != nil || inst.Data.Host == nil || inst.Data.Host.Runtime != "process" {
		return slices.Clone(argv), err
	}
	return withoutVenv(argv), nil
}

// withoutVenv cuts what jobCommands puts before the commands of a run with the default image.
// It goes by the first and the last line alone: what is between depends on what the run asked
// for when its job was made, which may have changed since.
func withoutVenv(argv []string) []string {
	out, lines := slices.Clone(argv), venv(&config.RunCommon{})
	if n := len(out); n > 0 && strings.HasPrefix(out[n-1], lines[0]+" && ") {
		if _, own, ok := strings.Cut(out[n-1], lines[len(lines)-1]+" && "); ok {
			out[n-1] = own
		}
	}
	return out
}
