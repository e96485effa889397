// Package ledger is the only door to spending: nothing that costs money is created or
// deleted elsewhere. An intent is recorded before the call to the provider and ends only
// when the provider says that the resource is gone, so that no crash, lost reply or
// impatient operator leaves a machine running that nobody knows of.
//
//	intended ──create──▶ created ──▶ deleting ──▶ gone
//	    │                    ▲                      ▲
//	    └──▶ unknown ────────┘ found by its tag     │
//	             └──────────── not found for the settle time
//
// An intent is unknown from before the call until its answer is stored: a crash in between
// is the same as a lost reply. What is unknown is looked up, never asked for again.
// Deleting is repeated for ever; what takes long is on the debt list ([Ledger.Debts]). A
// sweep per account finds what carries our tag without a live intent, and deletes it, and
// what an intent believes in but the provider does not list, and looks closer.
//
// Test it with go test ./internal/ledger: crashes at every effect, lost replies and chaos
// against the fake cloud, whose bill must equal the ledger's.
package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"dstack/internal/backend"
	"dstack/internal/engine"
	"dstack/internal/store"
)

// Kinds of the engine that the ledger registers.
const (
	Kind      = "intent"
	sweepKind = "account"
)

// Clouds knows the configured backends.
type Clouds interface {
	// Backend returns the backend of a project by its name.
	Backend(ctx context.Context, projectID, name string) (backend.Backend, error)
	// Accounts lists all backends of all projects.
	Accounts(ctx context.Context) ([]Account, error)
}

// Account is one configured backend of one project.
type Account struct{ ProjectID, Backend string }

// Config is what New needs; fields are required unless marked optional.
type Config struct {
	DB     *store.DB
	Engine *engine.Engine
	Clouds Clouds
	Log    *slog.Logger
	// OnChange is called after a commit that changed what [Get] returns; optional: nil wakes
	// the owner's kind at the engine.
	OnChange func(ownerKind, ownerID string)
	// Quote tells present prices; optional: nothing is bought above an intent's limit by it.
	Quote QuoteFunc
	// Current says in a transaction whether b is what Clouds has of a backend now, and another server
	// has not changed or deleted it meanwhile: else nothing is asked for. Optional: nil for yes.
	Current func(ctx context.Context, q store.Querier, a Account, b backend.Backend) (bool, error)
}

// Ledger records and carries out intents. It is safe for concurrent use.
type Ledger struct {
	Config
	lists  lists
	crowds crowds
}

// New checks c and registers the ledger's kinds with the engine.
func New(c Config) (*Ledger, error) {
	if c.DB == nil || c.Engine == nil || c.Clouds == nil || c.Log == nil {
		return nil, errors.New("ledger: DB, Engine, Clouds and Log are required")
	}
	if c.OnChange == nil {
		c.OnChange = func(kind, id string) { c.Engine.Wake(kind, id) }
	}
	if c.Current == nil {
		c.Current = func(context.Context, store.Querier, Account, backend.Backend) (bool, error) { return true, nil }
	}
	l := &Ledger{Config: c}
	c.Engine.Register(engine.Kind{
		Name: Kind, Workers: workers, Timeout: createTimeout + 2*time.Minute, Live: engine.LiveQuery(selectBusy), Reconcile: l.reconcile,
	})
	c.Engine.Register(engine.Kind{
		Name: sweepKind, Workers: 8, Timeout: 3 * listTimeout, Live: l.accounts, Reconcile: l.sweep,
	})
	return l, nil
}

// Intent is a wish to have something that costs money.
type Intent struct {
	Kind      backend.ResourceKind
	Backend   string
	Region    string
	ProjectID string
	// Owner is the object that wants it: an engine kind and an id. It is told of changes.
	OwnerKind, OwnerID string
	Price              float64 // US dollars per hour, as offered
	// MaxPrice is what it may cost when it is asked for, in US dollars per hour; nil: anything.
	MaxPrice *float64

	// Name is for people: the resource's name begins with the project's name and it.
	Name string
	// Create describes an instance; Volume a volume. Token, Name and our tags are filled in, and since
	// when an instance is waited for, if that is not said.
	Create *backend.CreateRequest
	Volume *backend.VolumeRequest
	// Cluster is the fleet whose instances have to be close to each other, "" for none: where
	// the backend has placement groups, an instance joins the fleet's before it is created.
	Cluster string
}

// Intend records a wish in the transaction of the object that wants it and returns the
// intent's id. The ledger carries it out after the commit.
func (l *Ledger) Intend(ctx context.Context, tx *store.Tx, in Intent) (string, error) {
	r := Record{
		ID: uuid.NewString(), Version: 1, Kind: in.Kind, Backend: in.Backend, Region: in.Region,
		ProjectID: in.ProjectID, OwnerKind: in.OwnerKind, OwnerID: in.OwnerID,
		State: Intended, Wanted: true, Price: in.Price, CreatedAt: time.Now(),
	}
	switch {
	case in.Kind == backend.InstanceResource && in.Create != nil:
		req := *in.Create
		req.Token, req.Since, req.Name = r.ID, cmp.Or(req.Since, r.CreatedAt), resourceName(req.Project, in.Name, r.ID)
		req.Tags = l.tags(req.Tags, r.ID, req.Project, req.Fleet, in.Name)
		r.Doc.Create, r.Doc.Cluster, r.Doc.MaxPrice = &req, in.Cluster, in.MaxPrice
	case in.Kind == backend.VolumeResource && in.Volume != nil:
		req := *in.Volume
		req.Token, req.Name, req.Region = r.ID, resourceName("", in.Name, r.ID), in.Region
		req.Tags = l.tags(req.Tags, r.ID, "", "", in.Name)
		r.Doc.Volume = &req
	default:
		return "", fmt.Errorf("intend %s at %s: no request for this kind", in.Kind, in.Backend)
	}
	if err := insert(ctx, tx, r); err != nil {
		return "", fmt.Errorf("intend %s at %s: %w", in.Kind, in.Backend, err)
	}
	tx.OnCommit(func() { l.Engine.Wake(Kind, r.ID) })
	return r.ID, nil
}

// Release says that the resource of an intent is not wanted any more. The ledger deletes what exists
// or may exist, however long it takes. It is idempotent: owners say it at each look, and only the
// first time has the provider asked.
func (l *Ledger) Release(ctx context.Context, tx *store.Tx, id string) error {
	res, err := tx.ExecContext(ctx, releaseIntent, id)
	if err != nil {
		return fmt.Errorf("release intent %s: %w", id, err)
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		tx.OnCommit(func() { l.Engine.Wake(Kind, id) })
	}
	return nil
}

// Check asks the ledger to look whether a created resource still exists, because its host
// does not answer, say. The owner hears of it only when something changed.
func (l *Ledger) Check(ctx context.Context, tx *store.Tx, id string) error {
	at := time.Now()
	r, err := Get(ctx, tx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case r.questioned():
		at = r.checkAt // the question is as old as it is, though it is repeated
	}
	if _, err := tx.ExecContext(ctx, checkIntent, id, store.Micros(at)); err != nil {
		return fmt.Errorf("check intent %s: %w", id, err)
	}
	tx.OnCommit(func() { l.Engine.Wake(Kind, id) })
	return nil
}

// Get returns what is known of an intent; store.ErrNotFound when there is none.
func Get(ctx context.Context, q store.Querier, id string) (Record, error) {
	r, err := scan(q.QueryRowContext(ctx, selectIntent, id))
	if err != nil {
		return Record{}, fmt.Errorf("intent %s: %w", id, store.One(err))
	}
	return r, nil
}

// Get is the function of this name, so that a consumer needs one thing only.
func (l *Ledger) Get(ctx context.Context, q store.Querier, id string) (Record, error) {
	return Get(ctx, q, id)
}

func (l *Ledger) tags(user map[string]string, id, project, fleet, name string) map[string]string {
	tags := map[string]string{}
	for k, v := range user {
		tags[k] = v
	}
	for k, v := range map[string]string{
		backend.TagServer: l.DB.ServerID(), backend.TagIntent: id,
		backend.TagProject: project, backend.TagFleet: fleet, backend.TagName: name,
	} {
		if v != "" {
			tags[k] = v
		}
	}
	return tags
}
