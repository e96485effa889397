package gateway

import (
	"errors"
	"fmt"

	"dstack/internal/config"
	"dstack/internal/store"
)

// Intact says what a document lacks; nil is nothing.
func (d *Data) Intact() error {
	if d.Configuration.Type != config.TypeGateway {
		return errors.New("there is no configuration")
	}
	return nil
}

// whole takes the error of reading a row of which something makes no sense: it is shown and can be
// deleted. What a lost document said has a stand-in.
func (g *Gateway) whole(err error) error {
	damage, ok := errors.AsType[*store.Damage](err)
	if !ok {
		return err
	}
	if damage.Document {
		g.Data = Data{Configuration: config.Gateway{Type: config.TypeGateway, Name: &g.Name, Tags: config.Tags{}}}
	}
	g.Damage = fmt.Sprintf("The stored record of this gateway cannot be read (%v). Delete it", damage)
	return nil
}
