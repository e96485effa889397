package volume

import (
	"errors"
	"fmt"

	"dstack/internal/config"
	"dstack/internal/store"
)

// Intact says what a document lacks; nil is nothing.
func (d *Data) Intact() error {
	if d.Configuration.Type != config.TypeVolume {
		return errors.New("there is no configuration")
	}
	return nil
}

// whole takes the error of reading a row of which something makes no sense: it is shown, is not
// cleaned up by itself, and can be deleted; the disk with it, which the ledger knows. What a lost
// document said has a stand-in.
func (v *Volume) whole(err error) error {
	damage, ok := errors.AsType[*store.Damage](err)
	if !ok {
		return err
	}
	if damage.Document {
		v.Data = Data{Configuration: config.Volume{Type: config.TypeVolume, Backend: v.Backend, Name: &v.Name, Tags: config.Tags{}}}
	}
	v.Damage = fmt.Sprintf("The stored record of this volume cannot be read (%v). Its disk stays; delete it", damage)
	return nil
}
