package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"dstack/internal/api"
	"dstack/internal/event"
	"dstack/internal/fleet"
	"dstack/internal/instance"
	"dstack/internal/ledger"
	"dstack/internal/store"
	"dstack/internal/user"
	"dstack/internal/volume"
)

// doctor asks all providers what exists and compares it with the ledger.
func (s *Server) doctor(ctx context.Context, _ user.User, _ struct{}) (api.Doctor, error) {
	out := api.Doctor{Resources: []api.DoctorResource{}, Accounts: []api.DoctorAccount{}}
	found, err := s.ledger.Inspect(ctx, s.db.Read())
	if err != nil {
		return out, err
	}
	names, err := s.owners(ctx, found.Found)
	if err != nil {
		return out, err
	}
	for _, f := range found.Found {
		r := s.doctored(ctx, f, names)
		out.HourlyUSD += f.Price
		if f.Verdict == ledger.Unconfirmed || f.Verdict == ledger.Unexplained || f.Verdict == ledger.Broken || f.Debt {
			out.UnconfirmedUSD += f.Price
		}
		out.Resources = append(out.Resources, r)
	}
	for _, a := range found.Accounts {
		account := api.DoctorAccount{Project: s.projectName(ctx, a.ProjectID), Backend: a.Backend, Error: a.Problem()}
		if a.Unread != nil {
			account.Unread = a.Unread.Error()
		}
		out.Accounts = append(out.Accounts, account)
	}
	return out, nil
}

// doctored is what the API says of a resource.
func (s *Server) doctored(ctx context.Context, f ledger.Found, names map[string]string) api.DoctorResource {
	r := api.DoctorResource{
		Project: s.projectName(ctx, f.Project), Kind: string(f.Kind), Name: names[f.OwnerID], Backend: f.Backend, Region: f.Region, ID: f.Doc.Instance.Ref.ID,
		State: string(f.State), Verdict: string(f.Verdict), Debt: f.Debt, HourlyUSD: f.Price, Since: api.At(f.CreatedAt), Message: f.Message(),
		Intent: f.ID, Forgettable: f.Forgettable,
	}
	for _, part := range f.Billed().In(time.Time{}, time.Now()) {
		r.CostUSD += part.USD()
	}
	return r
}

// forget gives up a resource that nobody can be asked about.
func (s *Server) forget(ctx context.Context, by user.User, r api.ForgetRequest) (api.DoctorResource, error) {
	found, err := s.ledger.Inspect(ctx, s.db.Read())
	if err != nil {
		return api.DoctorResource{}, err
	}
	at := slices.IndexFunc(found.Found, func(f ledger.Found) bool { return f.ID != "" && f.ID == r.Intent })
	if at < 0 {
		return api.DoctorResource{}, api.NotExists("Nothing that costs money has this intent")
	}
	f := found.Found[at]
	if !f.Forgettable {
		return api.DoctorResource{}, api.Invalid("The %s of this intent is %s: its backend may yet say what becomes of it. "+
			"Only what no credentials answer for can be forgotten. If the backend does not answer now, and never will: "+
			"delete what it is for, such as its fleet, and ask again ten minutes later.", f.Kind, f.Verdict)
	}
	names, err := s.owners(ctx, []ledger.Found{f})
	if err != nil {
		return api.DoctorResource{}, err
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		if err := s.ledger.Forget(ctx, tx, f); err != nil {
			return err
		}
		return event.Record(ctx, tx, event.Event{
			Message: fmt.Sprintf("Forgotten: %s %s of backend %s in %s, which may still cost money", f.Kind, cmp.Or(f.Doc.Instance.Ref.ID, "of intent "+f.ID), f.Backend, f.Region),
			ActorID: by.ID, ActorName: by.Name, ProjectID: f.ProjectID, Targets: []event.Target{s.ownerTarget(ctx, f, names)},
		})
	})
	if err != nil {
		return api.DoctorResource{}, err
	}
	return s.doctored(ctx, f, names), nil
}

// ownerTarget is what a resource is for, its project where nobody knows.
func (s *Server) ownerTarget(ctx context.Context, f ledger.Found, names map[string]string) event.Target {
	types := map[string]api.EventTargetType{instance.Kind: api.EventTargetInstance, volume.Kind: api.EventTargetVolume, fleet.Kind: api.EventTargetFleet}
	if kind, ok := types[f.OwnerKind]; ok && names[f.OwnerID] != "" {
		return event.Target{Type: kind, ID: f.OwnerID, Name: names[f.OwnerID]}
	}
	return event.Target{Type: api.EventTargetProject, ID: f.ProjectID, Name: s.projectName(ctx, f.ProjectID)}
}

// owners names the instances, volumes and fleets that resources are for, by id.
func (s *Server) owners(ctx context.Context, found []ledger.Found) (map[string]string, error) {
	ids := map[string][]string{}
	for _, f := range found {
		ids[f.OwnerKind] = append(ids[f.OwnerKind], f.OwnerID)
	}
	names, err := volume.Names(ctx, s.db.Read(), ids[volume.Kind])
	if err != nil {
		return nil, err
	}
	for _, id := range ids[fleet.Kind] {
		names[id] = s.fleets.NameOf(ctx, id)
	}
	list, err := instance.ByID(ctx, s.db.Read(), ids[instance.Kind])
	for _, inst := range list {
		names[inst.ID] = inst.Name
	}
	return names, err
}
