package server

import (
	"context"
	"time"

	"dstack/internal/api"
	"dstack/internal/fleet"
	"dstack/internal/instance"
	"dstack/internal/ledger"
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
	now := time.Now()
	for _, f := range found.Found {
		r := api.DoctorResource{
			Project: s.projectName(ctx, f.Project), Kind: string(f.Kind), Name: names[f.OwnerID], Backend: f.Backend, Region: f.Region, ID: f.Doc.Instance.Ref.ID,
			State: string(f.State), Verdict: string(f.Verdict), Debt: f.Debt, HourlyUSD: f.Price, Since: api.At(f.CreatedAt), Message: f.Message(),
		}
		if !f.BilledFrom.IsZero() {
			r.CostUSD = f.Price * now.Sub(f.BilledFrom).Hours()
		}
		out.HourlyUSD += f.Price
		if f.Verdict == ledger.Unconfirmed || f.Verdict == ledger.Unexplained || f.Verdict == ledger.Broken || f.Debt {
			out.UnconfirmedUSD += f.Price
		}
		out.Resources = append(out.Resources, r)
	}
	for _, a := range found.Accounts {
		out.Accounts = append(out.Accounts, api.DoctorAccount{Project: s.projectName(ctx, a.ProjectID), Backend: a.Backend, Error: a.Problem()})
	}
	return out, nil
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
