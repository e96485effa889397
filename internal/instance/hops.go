package instance

import (
	"context"
	"fmt"
)

// Hop is one SSH server on the way to an instance, with a private key that opens it.
type Hop struct {
	Host    string
	Port    int
	User    string
	Private string // in the clear
}

// Hops is the way to an instance: its jump host, if it has one, and itself. There is none to
// a machine whose agent is reached without SSH.
func (s *Service) Hops(ctx context.Context, inst Instance) ([]Hop, error) {
	jpd := inst.Data.Provisioning
	if inst.Data.Socket != "" || jpd == nil || jpd.Hostname == nil {
		return nil, nil
	}
	var hops []Hop
	_, private, err := s.Keys.ProjectKey(ctx, inst.ProjectID)
	if err != nil {
		return nil, err
	}
	last := Hop{Host: *jpd.Hostname, Port: 22, User: jpd.Username, Private: private}
	if jpd.SSHPort != nil {
		last.Port = *jpd.SSHPort
	}
	if r := inst.Data.Remote; r != nil {
		if r.Jump != nil && len(r.Jump.Sealed) > 0 {
			key, err := s.Sealer.Open(r.Jump.Sealed[0])
			if err != nil {
				return nil, fmt.Errorf("key of %s: %w", r.Jump.Hostname, err)
			}
			hops = append(hops, Hop{r.Jump.Hostname, r.Jump.Port, r.Jump.User, key})
		}
		last.Host, last.Port, last.User = r.Host.Hostname, r.Host.Port, r.Host.User
	}
	return append(hops, last), nil
}
