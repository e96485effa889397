package user

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/event"
	"dstack/internal/sshkey"
	"dstack/internal/store"
)

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
