package ledger

import (
	"errors"

	"dstack/internal/backend"
	"dstack/internal/store"
)

// Intact says what a document lacks; nil is nothing.
func (d *Doc) Intact() error {
	if d.Create == nil && d.Volume == nil && d.Placement == nil && d.Instance.Ref.ID == "" {
		return errors.New("there is neither a request nor a resource")
	}
	return nil
}

// whole takes the error of reading a row, and puts a stand-in for a damaged document: what is known
// from the columns is enough to find the resource and to delete it.
func (r *Record) whole(err error, resource *string) error {
	damage, ok := errors.AsType[*store.Damage](err)
	if !ok {
		return err
	}
	message := "the stored record " + r.ID + " cannot be read: " + damage.Error()
	if !damage.Document {
		r.Doc.Damage, r.Doc.Message = damage.Error(), message
		return nil
	}
	r.Doc = Doc{
		Damage: damage.Error(), Message: message,
		Instance: backend.Instance{Ref: backend.Ref{ID: *resource, Region: r.Region}, State: backend.StateRunning},
	}
	return nil
}
