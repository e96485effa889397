package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"dstack/internal/backend"
	"dstack/internal/catalog/collect"
	"dstack/internal/ledger"
)

// maxAccesses bounds whose credentials one collection tries: a provider may count refusals.
const maxAccesses = 10

// access is what one collection may use to be let in: the credentials of the server's environment
// or of one project, never of both nor of two.
type access struct {
	project string // its id, "" for the environment
	values  map[string]backend.Secret
}

func (a access) env(name string) string { return a.values[name].Reveal() }

// asked is a source that is being asked.
type asked struct {
	with access
	end  context.CancelCauseFunc // nil before the first question
}

// errForgotten is why a collection ends whose credentials are not to be used any more.
var errForgotten = errors.New("the credentials were changed or removed")

// Use has collections use what a project's backend is known by to its provider, by the variables
// of the provider's sources, where the environment has not all of them. With no values what was
// known is forgotten. A collection that uses what was changed ends at once.
//
// Prices are for all projects. So no project's credentials are used for a source that tells each
// account something else.
func (p *Prices) Use(a ledger.Account, values map[string]backend.Secret) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if maps.Equal(p.secrets[a], values) {
		return
	}
	if p.secrets[a] = maps.Clone(values); len(values) == 0 {
		delete(p.secrets, a)
	}
	for _, s := range collect.Sources() {
		_, wanted := p.due[s.Name()]
		if s.Provider != a.Backend || !wanted {
			continue
		}
		if q := p.asking[s.Name()]; q == nil {
			p.due[s.Name()] = p.expiry(s)
		} else if q.end != nil && q.with.project == a.ProjectID {
			q.end(errForgotten)
		}
	}
	p.tell()
}

// accesses lists what a source may be asked with, in the order of trying: projects by their ids,
// but from the one whose turn it is. It wants the mutex held.
func (p *Prices) accesses(s collect.Source) []access {
	environment := access{values: map[string]backend.Secret{}}
	for _, name := range slices.Concat(s.Needs, s.Instead, s.May, s.With) {
		environment.values[name] = backend.Secret(p.Env(name))
	}
	published := p.Env(collect.CatalogsVariable) != "" // which are for everybody
	enough, all := len(s.Missing(p.Env)) == 0, len(s.Lacking(p.Env)) == 0
	if published || s.PerAccount || enough && all {
		return slices.DeleteFunc([]access{environment}, func(access) bool { return !published && !enough })
	}
	var whole, part []access
	for a, values := range p.secrets {
		one := access{a.ProjectID, values}
		switch {
		case a.Backend != s.Provider || len(s.Missing(one.env)) > 0:
		case len(s.Lacking(one.env)) == 0:
			whole = append(whole, one)
		default:
			part = append(part, one)
		}
	}
	if p.order(s, whole); enough {
		return append(whole, environment)
	}
	p.order(s, part)
	return append(whole, part...)
}

func (p *Prices) order(s collect.Source, list []access) {
	first := p.first[s.Name()]
	slices.SortFunc(list, func(a, b access) int {
		if (a.project < first) != (b.project < first) {
			return cmp.Compare(b.project, a.project) // those before come last
		}
		return cmp.Compare(a.project, b.project)
	})
}

// collect asks a source with what it may be asked with, one after the other while that is refused. Of
// those who get what anybody is told, the last counts; lists of gigabytes are not asked for twice.
func (p *Prices) collect(ctx context.Context, s collect.Source, log *slog.Logger, ask func(context.Context, access) (collect.Collection, error)) (collect.Collection, error) {
	refused := errForgotten
	var public *collect.Collection
	var tried []access
	for {
		ctx, end := context.WithCancelCause(ctx)
		a, some := p.take(s, tried, end)
		switch {
		case public != nil && (!some || a.project == ""): // the environment has no account
			end(nil)
			return *public, nil
		case !some:
			end(nil)
			return collect.Collection{}, refused
		}
		if a.project != "" {
			log.Info("list prices are asked for with the credentials of a project", "project", a.project)
		}
		found, err := ask(ctx, a)
		forgotten := err != nil && errors.Is(context.Cause(ctx), errForgotten)
		end(nil)
		if forgotten {
			continue // with others, if there are
		}
		found.NoAccount = a.say(found.NoAccount)
		err = a.say(err)
		if p.turn(s, a, err == nil && found.NoAccount == nil); err == nil && found.NoAccount != nil && !s.Huge {
			public, err = &found, found.NoAccount
		}
		switch {
		case err == nil:
			return found, nil
		case errors.Is(err, backend.ErrAuth):
		case public != nil:
			return *public, nil
		default:
			return collect.Collection{}, err
		}
		if tried = append(tried, a); a.project != "" {
			log.Warn("the provider refuses the credentials of a project", "project", a.project, "err", err)
		}
		refused = err
	}
}

// take is what a source is asked with next, whose question end ends; some is false for nothing.
func (p *Prices) take(s collect.Source, tried []access, end context.CancelCauseFunc) (a access, some bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := slices.DeleteFunc(p.accesses(s), func(a access) bool {
		return slices.ContainsFunc(tried, func(b access) bool { return maps.Equal(a.values, b.values) })
	})
	if len(left) == 0 || len(tried) >= maxAccesses {
		return access{}, false
	}
	p.asking[s.Name()] = &asked{with: left[0], end: end}
	return left[0], true
}

// turn has a project go first the next time if that is good, else last.
func (p *Prices) turn(s collect.Source, a access, good bool) {
	if a.project == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.first[s.Name()] = a.project
	if !good {
		p.first[s.Name()] += "\x00" // what follows it
	}
}

// say adds whose credentials an error is about.
func (a access) say(err error) error {
	if err == nil || a.project == "" {
		return err
	}
	return fmt.Errorf("with the credentials of project %s: %w", a.project, err)
}
