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
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/config"
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
	err := row.Scan(&u.ID, &u.Name, &u.GlobalRole, &u.Email, &u.Active, &u.PublicKey, &created, &u.token, &u.private)
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
		ID: u.ID, Username: u.Name, CreatedAt: api.OptTime(u.CreatedAt), GlobalRole: u.GlobalRole, Active: u.Active,
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

// Me returns the caller with credentials.
func (s *Service) Me(_ context.Context, caller User, _ struct{}) (api.UserWithCreds, error) {
	return s.WithCreds(caller)
}

// allowed finds a user that the caller may see in full.
func (s *Service) allowed(ctx context.Context, caller User, name string) (User, error) {
	u, err := s.ByName(ctx, s.DB.Read(), name)
	if errors.Is(err, store.ErrNotFound) || err == nil && !caller.Admin() && caller.ID != u.ID {
		return User{}, api.NotExists("")
	}
	return u, err
}

// Get returns a user with credentials, to themselves and to admins.
func (s *Service) Get(ctx context.Context, caller User, r api.UsernameRequest) (api.UserWithCreds, error) {
	u, err := s.allowed(ctx, caller, r.Username)
	if err != nil {
		return api.UserWithCreds{}, err
	}
	return s.WithCreds(u)
}

// pageSize is how many users or projects are listed unless a request says otherwise.
const pageSize = 2000

// List returns the users that the caller may see: all of them in pages, or themselves.
func (s *Service) List(ctx context.Context, caller User, r api.ListUsersRequest) (any, error) {
	if err := CheckPattern(r.NamePattern); err != nil {
		return nil, err
	}
	pattern := strings.ToLower(opt(r.NamePattern))
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT `+columns+` FROM account WHERE NOT deleted ORDER BY created_at DESC, id`)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	defer rows.Close()
	users := []api.User{}
	for rows.Next() {
		u, err := scan(rows)
		if err != nil {
			return nil, err
		}
		if (caller.Admin() || u.ID == caller.ID) && strings.Contains(strings.ToLower(u.Name), pattern) {
			users = append(users, s.View(u))
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	total := len(users)
	if caller.Admin() {
		users = Page(users, r.PrevCreatedAt, r.PrevID, r.Limit, r.Ascending, func(u api.User) (*api.Time, string) { return u.CreatedAt, u.ID })
	}
	if r.ReturnTotalCount != nil && *r.ReturnTotalCount {
		return api.UsersInfoList{TotalCount: total, Users: users}, nil
	}
	return users, nil
}

// Page cuts a list that is sorted newest first (http-api 1.4); a nil limit is [pageSize].
func Page[T any](list []T, prev *api.Time, prevID *string, limit *int, ascending bool, key func(T) (*api.Time, string)) []T {
	most := pageSize
	if limit != nil {
		most = *limit
	}
	out := []T{}
	for i := range list {
		v := list[i]
		if ascending {
			v = list[len(list)-1-i]
		}
		if prev != nil {
			at, id := key(v)
			if at == nil {
				continue
			}
			c := at.Compare(prev.Time)
			if c == 0 && prevID != nil { // ids run the other way
				c = strings.Compare(*prevID, id)
			}
			if ascending && c <= 0 || !ascending && c >= 0 {
				continue
			}
		}
		if len(out) >= most {
			break
		}
		out = append(out, v)
	}
	return out
}

// CheckPattern refuses a name_pattern that no name can match.
func CheckPattern(p *string) error {
	if p == nil || *p == "" || validName(*p, len(*p)) {
		return nil
	}
	return &config.Errors{Problems: []config.Problem{{Loc: []any{"body", "name_pattern"}, Type: "string_pattern_mismatch",
		Msg: "String should match pattern '^[a-zA-Z0-9-_]*$'", Input: *p}}}
}

func validName(s string, most int) bool {
	return s != "" && len(s) <= most && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// Create makes a user.
func (s *Service) Create(ctx context.Context, caller User, r api.CreateUserRequest) (api.User, error) {
	if !validName(r.Username, 60) {
		return api.User{}, api.Invalid("Username should match regex '^[a-zA-Z0-9-_]{1,60}$'")
	}
	u, err := s.insert(ctx, r.Username, r.GlobalRole, opt(r.Email), r.Active == nil || *r.Active, uuid.NewString(), caller)
	if err != nil {
		return api.User{}, err
	}
	return s.View(u), nil
}

// Update replaces role, e-mail and active.
func (s *Service) Update(ctx context.Context, caller User, r api.CreateUserRequest) (api.User, error) {
	var u User
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		before, err := s.ByName(ctx, tx, r.Username)
		if errors.Is(err, store.ErrNotFound) {
			return api.NotExists("")
		}
		if err != nil {
			return err
		}
		u, err = scan(tx.QueryRowContext(ctx, `UPDATE account SET global_role = $1, email = $2, active = $3 WHERE name = $4 AND NOT deleted RETURNING `+columns,
			r.GlobalRole, opt(r.Email), r.Active == nil || *r.Active, r.Username))
		if errors.Is(err, store.ErrNotFound) {
			return api.NotExists("")
		}
		if err != nil {
			return err
		}
		return s.record(ctx, tx, caller, u, "User updated. Updated fields: "+event.Fields(changed(before, u)))
	})
	if err != nil {
		return api.User{}, err
	}
	return s.View(u), nil
}

// changed lists what differs, as events show it: an address is nobody else's business.
func changed(before, after User) []string {
	var fields []string
	if after.GlobalRole != before.GlobalRole {
		fields = append(fields, "global_role="+string(after.GlobalRole))
	}
	if after.Email != before.Email {
		fields = append(fields, "email")
	}
	if after.Active != before.Active {
		fields = append(fields, "active="+event.Bool(after.Active))
	}
	return fields
}

// Delete removes users; "admin" stays.
func (s *Service) Delete(ctx context.Context, caller User, r api.DeleteUsersRequest) (*struct{}, error) {
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, name := range r.Users {
			if name == "admin" {
				return api.Invalid("User 'admin' cannot be deleted")
			}
			u, err := scan(tx.QueryRowContext(ctx, `UPDATE account SET deleted = TRUE, active = FALSE WHERE name = $1 AND NOT deleted RETURNING `+columns, name))
			if errors.Is(err, store.ErrNotFound) {
				return api.Invalid("Failed to delete non-existent users")
			}
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM member WHERE user_id = $1`, u.ID); err != nil {
				return fmt.Errorf("remove user %s from projects: %w", name, err)
			}
			if err := s.record(ctx, tx, caller, u, "User deleted"); err != nil {
				return err
			}
		}
		return nil
	})
}

// RefreshToken gives a user a new token.
func (s *Service) RefreshToken(ctx context.Context, caller User, r api.UsernameRequest) (api.UserWithCreds, error) {
	return s.refresh(ctx, caller, r, "User token refreshed", func(tx *store.Tx, u User) error {
		token := uuid.NewString()
		sealed, err := s.Box.Seal(token)
		if err != nil {
			return err
		}
		return store.Guarded(tx.ExecContext(ctx, `UPDATE account SET token_hash = $1, token_sealed = $2 WHERE id = $3 AND NOT deleted`, hash(token), sealed, u.ID))
	})
}

// RefreshKey gives a user a new SSH key pair.
func (s *Service) RefreshKey(ctx context.Context, caller User, r api.UsernameRequest) (api.UserWithCreds, error) {
	return s.refresh(ctx, caller, r, "User SSH key refreshed", func(tx *store.Tx, u User) error {
		keys, err := sshkey.Generate(u.Name)
		if err != nil {
			return err
		}
		sealed, err := s.Box.Seal(keys.Private)
		if err != nil {
			return err
		}
		return store.Guarded(tx.ExecContext(ctx, `UPDATE account SET public_key = $1, private_sealed = $2 WHERE id = $3 AND NOT deleted`, keys.Public, sealed, u.ID))
	})
}

func (s *Service) refresh(ctx context.Context, caller User, r api.UsernameRequest, text string, change func(*store.Tx, User) error) (api.UserWithCreds, error) {
	if !caller.Admin() && caller.Name != r.Username {
		return api.UserWithCreds{}, api.Forbidden()
	}
	u, err := s.allowed(ctx, caller, r.Username)
	if err != nil {
		return api.UserWithCreds{}, err
	}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := change(tx, u); err != nil {
			return err
		}
		return s.record(ctx, tx, caller, u, text)
	})
	if err != nil {
		return api.UserWithCreds{}, err
	}
	if u, err = s.ByID(ctx, s.DB.Read(), u.ID); err != nil {
		return api.UserWithCreds{}, err
	}
	return s.WithCreds(u)
}

func opt(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
