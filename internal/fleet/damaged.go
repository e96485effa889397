package fleet

import (
	"errors"
	"fmt"
	"slices"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/store"
)

// document is a fleet's spec as it is stored.
type document api.FleetSpec

// Intact says what a document lacks; nil is nothing.
func (d *document) Intact() error {
	if d.Configuration.Type != config.TypeFleet {
		return errors.New("there is no configuration")
	}
	return nil
}

// whole takes the error of reading a row, and puts a stand-in for a damaged document: the fleet is
// shown, gets no jobs, and can be deleted.
func (f *Fleet) whole(err error) error {
	damage, ok := errors.AsType[*store.Damage](err)
	if !ok {
		return err
	}
	f.Damage = fmt.Sprintf("The stored record of this fleet cannot be read (%v). It gets no jobs and no instances; delete it", damage)
	if !damage.Document {
		return nil
	}
	f.Spec = api.FleetSpec{Configuration: config.Fleet{Type: config.TypeFleet, Name: &f.Name, Blocks: config.Blocks{N: 1}, Env: config.Env{}}, Profile: config.Profile{Name: "default"}}
	return nil
}

// intact leaves the damaged ones out.
func intact(list []Fleet) []Fleet {
	return slices.DeleteFunc(list, func(f Fleet) bool { return f.Damage != "" })
}
