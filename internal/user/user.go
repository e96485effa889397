// Package user owns the people and programs that have a token.
package user

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/crypt"
	"dstack/internal/event"
	"dstack/internal/sshkey"
	"dstack/internal/store"
)

// User is one row. Token and PrivateKey are opened on demand.
type User struct {
	ID         string
	Name       string
	GlobalRole api.GlobalRole
	Email      string
	Active     bool
	PublicKey  string
	CreatedAt  time.Time
	token      string // sealed
	private    string // sealed
}

// Admin says that the user passes every check.
func (u User) Admin() bool { return u.GlobalRole == api.GlobalAdmin }

// Config is what New needs; DB and Box are required.
type Config struct {
	DB  *store.DB
	Box *crypt.Box
	// CanCreateProjects is the default of users who are no admins.
	CanCreateProjects bool
}

// Service creates, finds and changes users.
type Service struct{ Config }

// New returns a Service.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Box == nil {
		return nil, errors.New("user: DB and Box are required")
	}
	return &Service{c}, nil
}

const columns = `id, name, global_role, email, active, public_key, created_at, token_sealed, private_sealed`

func scan(row interface{ Scan(...any) error }) (User, error) {
	var u User
	var created int64
	err := store.DespiteDamage(store.Scan(row, &u.ID, &u.Name, &u.GlobalRole, &u.Email, &u.Active, &u.PublicKey, &created, &u.token, &u.private))
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, store.ErrNotFound
	}
	if err != nil {
		return User{}, fmt.Errorf("read a user: %w", err)
	}
	u.CreatedAt = store.Time(created)
	return u, nil
}

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// ByToken finds the active user of a token; store.ErrNotFound when there is none. Looking
// up by hash makes guessing by timing pointless.
func (s *Service) ByToken(ctx context.Context, token string) (User, error) {
	return scan(s.DB.Read().QueryRowContext(ctx, `SELECT `+columns+` FROM account WHERE token_hash = $1 AND active AND NOT deleted`, hash(token)))
}

// ByID finds a user, also a deleted one.
func (s *Service) ByID(ctx context.Context, q store.Querier, id string) (User, error) {
	return scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM account WHERE id = $1`, id))
}

// OrNobody finds a user as ByID does. For one who is not there any more it is a stand-in that
// may do nothing: what belonged to them can still be shown.
func (s *Service) OrNobody(ctx context.Context, q store.Querier, id string) (User, error) {
	u, err := s.ByID(ctx, q, id)
	if errors.Is(err, store.ErrNotFound) {
		return User{ID: nobody, Name: "(unknown)", GlobalRole: api.GlobalUser}, nil
	}
	return u, err
}

// nobody is the id of who is not there: clients want a UUID of version 4.
const nobody = "00000000-0000-4000-8000-000000000000"

// ByName finds a user that is not deleted; store.ErrNotFound when there is none.
func (s *Service) ByName(ctx context.Context, q store.Querier, name string) (User, error) {
	return scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM account WHERE NOT deleted AND name = $1`, name))
}

// ByNameOrEmail is [Service.ByName] for members, who may also be named by their e-mail
// address. A name goes before an address, the oldest user before others.
func (s *Service) ByNameOrEmail(ctx context.Context, q store.Querier, name string) (User, error) {
	u, err := s.ByName(ctx, q, name)
	if !errors.Is(err, store.ErrNotFound) || name == "" {
		return u, err
	}
	return scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM account WHERE NOT deleted AND email = $1 ORDER BY created_at, id LIMIT 1`, name))
}

// View is the user as others see it.
func (s *Service) View(u User) api.User {
	v := api.User{
		ID: u.ID, Username: u.Name, CreatedAt: api.OptTime(u.CreatedAt), GlobalRole: u.GlobalRole.Shown(), Active: u.Active,
		Permissions: api.UserPermissions{CanCreateProjects: u.Admin() || s.CanCreateProjects}, SSHPublicKey: &u.PublicKey,
	}
	if u.Email != "" {
		v.Email = &u.Email
	}
	return v
}

// WithCreds is the user as they see themselves.
func (s *Service) WithCreds(u User) (api.UserWithCreds, error) {
	token, err := s.Box.Open(u.token)
	if err != nil {
		return api.UserWithCreds{}, fmt.Errorf("token of user %s: %w", u.Name, err)
	}
	private, err := s.Box.Open(u.private)
	if err != nil {
		return api.UserWithCreds{}, fmt.Errorf("key of user %s: %w", u.Name, err)
	}
	return api.UserWithCreds{User: s.View(u), Creds: api.UserCreds{Token: token}, SSHPrivateKey: &private}, nil
}

// EnsureAdmin makes sure that the user "admin" exists. A new one gets the token, a random
// one if that is empty; the token of one that exists stays, so that a start does not undo
// its rotation. It returns the token and whether the user is new.
func (s *Service) EnsureAdmin(ctx context.Context, token string) (u User, used string, created bool, err error) {
	u, err = s.ByName(ctx, s.DB.Read(), "admin")
	if errors.Is(err, store.ErrNotFound) {
		token = cmp.Or(token, uuid.NewString())
		u, err = s.insert(ctx, "admin", api.GlobalAdmin, "", true, token, User{})
		if !api.IsExists(err) {
			return u, token, true, err
		}
		u, err = s.ByName(ctx, s.DB.Read(), "admin") // another replica was faster
	}
	if err != nil {
		return User{}, "", false, err
	}
	stored, err := s.Box.Open(u.token)
	if err != nil {
		return User{}, "", false, fmt.Errorf("token of user admin: %w", err)
	}
	return u, stored, false, nil
}

func (s *Service) insert(ctx context.Context, name string, role api.GlobalRole, email string, active bool, token string, actor User) (User, error) {
	keys, err := sshkey.Generate(name)
	if err != nil {
		return User{}, err
	}
	u := User{ID: uuid.NewString(), Name: name, GlobalRole: role, Email: email, Active: active, PublicKey: keys.Public, CreatedAt: time.Now()}
	if u.token, err = s.Box.Seal(token); err != nil {
		return User{}, err
	}
	if u.private, err = s.Box.Seal(keys.Private); err != nil {
		return User{}, err
	}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, `
INSERT INTO account (id, name, global_role, email, active, token_hash, token_sealed, public_key, private_sealed, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			u.ID, u.Name, u.GlobalRole, u.Email, u.Active, hash(token), u.token, u.PublicKey, u.private, store.Micros(u.CreatedAt))
		if err != nil {
			return err
		}
		if actor.ID == "" {
			actor = u // the first user makes itself
		}
		return s.record(ctx, tx, actor, u, "User created")
	})
	if c := store.Constraint(err); c == "account_name" || c == "account_token_hash_key" {
		return User{}, api.Exists("")
	}
	return u, err
}

func (s *Service) record(ctx context.Context, tx *store.Tx, actor, u User, text string) error {
	return event.Record(ctx, tx, event.Event{Message: text, ActorID: actor.ID, ActorName: actor.Name,
		Targets: []event.Target{{Type: api.EventTargetUser, ID: u.ID, Name: u.Name}}})
}
