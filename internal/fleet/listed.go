package fleet

import (
	"context"

	"dstack/internal/api"
	"dstack/internal/encoded"
	"dstack/internal/instance"
)

// What lists show is remembered up to so many bytes: of 20,000 instances, and of fleets with as
// many hosts in their configurations.
const (
	maxInstanceTexts = 24 << 20
	maxFleetTexts    = 8 << 20
)

// texts remembers fleets and instances as lists show them.
type texts struct {
	fleets    encoded.Cache[string, shownFleet, api.Fleet] // without their instances
	instances encoded.Cache[string, shownInstance, api.Instance]
}

func newTexts() *texts {
	return &texts{
		fleets:    encoded.Cache[string, shownFleet, api.Fleet]{MaxBytes: maxFleetTexts},
		instances: encoded.Cache[string, shownInstance, api.Instance]{MaxBytes: maxInstanceTexts},
	}
}

// shownFleet is all that the text of a fleet depends on.
type shownFleet struct {
	version           int64
	project, problems string
}

// shownInstance is all that the text of an instance depends on.
type shownInstance struct {
	version        int64
	project, fleet string // names
}

// listed are fleets as a list shows them.
func (s *Service) listed(ctx context.Context, fleets []Fleet) (encoded.JSON[[]api.Fleet], error) {
	all, err := s.parts(ctx, fleets)
	if err != nil {
		return nil, err
	}
	out := make([]encoded.JSON[api.Fleet], len(all))
	for i := range all {
		if out[i], err = s.texts.fleet(&all[i]); err != nil {
			return nil, err
		}
	}
	return encoded.List(out), nil
}

// fleet is one with its instances, which the wire has at the end.
func (t *texts) fleet(p *parts) (encoded.JSON[api.Fleet], error) {
	text, err := t.fleets.Of(p.ID, shownFleet{p.Version, p.project, p.problems()}, p.render)
	if err != nil {
		return nil, err
	}
	list := make([]encoded.JSON[api.Instance], len(p.instances))
	for n, i := range p.instances {
		if list[n], err = t.instance(i, p.project, p.Name); err != nil {
			return nil, err
		}
	}
	return encoded.Fill(text, encoded.List(list)), nil
}

// instance is one with the names of what it belongs to.
func (t *texts) instance(i *instance.Instance, project, fleet string) (encoded.JSON[api.Instance], error) {
	return t.instances.Of(i.ID, shownInstance{i.Version, project, fleet}, func() api.Instance { return instance.View(i, project, fleet) })
}
