package user

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/crypt"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func box(t *testing.T) *crypt.Box {
	t.Helper()
	secret, err := base64.StdEncoding.DecodeString(crypt.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	b, err := crypt.New([]crypt.Key{{Name: "k", Secret: secret}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// each runs fn with a service and its administrator on each engine.
func each(t *testing.T, fn func(t *testing.T, s *Service, admin User)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, err := New(Config{DB: db, Box: box(t), CanCreateProjects: true})
		if err != nil {
			t.Fatal(err)
		}
		admin, _, _, err := s.EnsureAdmin(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		fn(t, s, admin)
	})
}

func create(t *testing.T, s *Service, admin User, name string) User {
	t.Helper()
	if _, err := s.Create(t.Context(), admin, api.CreateUserRequest{Username: name, GlobalRole: api.GlobalUser}); err != nil {
		t.Fatal(err)
	}
	u, err := s.ByName(t.Context(), s.DB.Read(), name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func token(t *testing.T, s *Service, u User) string {
	t.Helper()
	v, err := s.WithCreds(u)
	if err != nil {
		t.Fatal(err)
	}
	return v.Creds.Token
}

func TestEnsureAdmin(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, err := New(Config{DB: db, Box: box(t)})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		made, tokens := 0, map[string]bool{}
		var wg sync.WaitGroup
		for range 4 { // replicas that start together
			wg.Go(func() {
				_, used, created, err := s.EnsureAdmin(t.Context(), "")
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				tokens[used] = true
				if created {
					made++
				}
			})
		}
		wg.Wait()
		if made != 1 || len(tokens) != 1 {
			t.Errorf("%d admins were made with %d tokens, want one", made, len(tokens))
		}
		_, used, created, err := s.EnsureAdmin(t.Context(), "another-token")
		if err != nil || created || !tokens[used] {
			t.Errorf("EnsureAdmin of an existing one = %q, %v, %v; its token must stay", used, created, err)
		}
	})
}

func TestTokens(t *testing.T) {
	each(t, func(t *testing.T, s *Service, admin User) {
		ctx := t.Context()
		alice := create(t, s, admin, "alice")
		old := token(t, s, alice)
		if u, err := s.ByToken(ctx, old); err != nil || u.ID != alice.ID {
			t.Fatalf("ByToken = %v, %v", u.Name, err)
		}
		v, err := s.RefreshToken(ctx, alice, api.UsernameRequest{Username: "alice"})
		if err != nil || v.Creds.Token == old {
			t.Fatalf("RefreshToken = %q, %v", v.Creds.Token, err)
		}
		inactive := false
		for _, c := range []struct {
			name   string
			change func() error
			token  string
			want   error
		}{
			{"the old token", nil, old, store.ErrNotFound},
			{"the new token", nil, v.Creds.Token, nil},
			{"the token's hash", nil, hash(v.Creds.Token), store.ErrNotFound},
			{"no token", nil, "", store.ErrNotFound},
			{"of an inactive user", func() error {
				_, err := s.Update(ctx, admin, api.CreateUserRequest{Username: "alice", GlobalRole: api.GlobalUser, Active: &inactive})
				return err
			}, v.Creds.Token, store.ErrNotFound},
			{"of an active user", func() error {
				_, err := s.Update(ctx, admin, api.CreateUserRequest{Username: "alice", GlobalRole: api.GlobalUser})
				return err
			}, v.Creds.Token, nil},
			{"of a deleted user", func() error {
				_, err := s.Delete(ctx, admin, api.DeleteUsersRequest{Users: []string{"alice"}})
				return err
			}, v.Creds.Token, store.ErrNotFound},
		} {
			if c.change != nil {
				if err := c.change(); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
			}
			if _, err := s.ByToken(ctx, c.token); !errors.Is(err, c.want) {
				t.Errorf("ByToken, %s: %v, want %v", c.name, err, c.want)
			}
		}
	})
}

// Names are unique without regard to case, also when they are taken at the same time.
func TestUniqueNames(t *testing.T) {
	each(t, func(t *testing.T, s *Service, admin User) {
		var mu sync.Mutex
		made := 0
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				name := []string{"alice", "Alice", "ALICE"}[i%3]
				_, err := s.Create(t.Context(), admin, api.CreateUserRequest{Username: name, GlobalRole: api.GlobalUser})
				if err != nil && !api.IsExists(err) {
					t.Errorf("Create(%s): %v, want that the name is taken", name, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made++
				}
			})
		}
		wg.Wait()
		if made != 1 {
			t.Errorf("%d users of one name", made)
		}
	})
}

func TestDeletedNameIsFree(t *testing.T) {
	each(t, func(t *testing.T, s *Service, admin User) {
		first := create(t, s, admin, "alice")
		if _, err := s.Delete(t.Context(), admin, api.DeleteUsersRequest{Users: []string{"alice"}}); err != nil {
			t.Fatal(err)
		}
		second := create(t, s, admin, "alice")
		if first.ID == second.ID {
			t.Error("the new user has the id of the deleted one")
		}
		u, err := s.ByID(t.Context(), s.DB.Read(), first.ID)
		if err != nil || u.Name != "alice" {
			t.Errorf("the deleted user is %q, %v: events show its name", u.Name, err)
		}
	})
}

func TestConcurrentDeletes(t *testing.T) {
	each(t, func(t *testing.T, s *Service, admin User) {
		create(t, s, admin, "alice")
		var mu sync.Mutex
		deleted := 0
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				_, err := s.Delete(t.Context(), admin, api.DeleteUsersRequest{Users: []string{"alice"}})
				if err != nil && err.Error() != "Failed to delete non-existent users" {
					t.Errorf("Delete: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					deleted++
				}
			})
		}
		wg.Wait()
		if deleted != 1 {
			t.Errorf("deleted %d times", deleted)
		}
	})
}

func TestDeleteIsAllOrNothing(t *testing.T) {
	each(t, func(t *testing.T, s *Service, admin User) {
		create(t, s, admin, "alice")
		for _, names := range [][]string{{"alice", "nosuch"}, {"alice", "admin"}, {"alice", "alice"}} {
			if _, err := s.Delete(t.Context(), admin, api.DeleteUsersRequest{Users: names}); err == nil {
				t.Errorf("Delete(%v) was carried out", names)
			}
			if _, err := s.ByName(t.Context(), s.DB.Read(), "alice"); err != nil {
				t.Errorf("after Delete(%v): %v", names, err)
			}
		}
	})
}

func TestErrors(t *testing.T) {
	each(t, func(t *testing.T, s *Service, admin User) {
		ctx := t.Context()
		alice := create(t, s, admin, "alice")
		create(t, s, admin, "bob")
		for name, c := range map[string]struct {
			call func() error
			want string
		}{
			"no name":          {func() error { _, err := s.Create(ctx, admin, api.CreateUserRequest{}); return err }, "Username should match regex '^[a-zA-Z0-9-_]{1,60}$'"},
			"a taken name":     {func() error { _, err := s.Create(ctx, admin, api.CreateUserRequest{Username: "BOB"}); return err }, "Resource exists"},
			"update of nobody": {func() error { _, err := s.Update(ctx, admin, api.CreateUserRequest{Username: "nosuch"}); return err }, "Resource not found"},
			"others' token":    {func() error { _, err := s.RefreshToken(ctx, alice, api.UsernameRequest{Username: "bob"}); return err }, "Access denied"},
			"nobody's token": {func() error {
				_, err := s.RefreshToken(ctx, admin, api.UsernameRequest{Username: "nosuch"})
				return err
			}, "Resource not found"},
			"others' key":    {func() error { _, err := s.RefreshKey(ctx, alice, api.UsernameRequest{Username: "bob"}); return err }, "Access denied"},
			"others' data":   {func() error { _, err := s.Get(ctx, alice, api.UsernameRequest{Username: "bob"}); return err }, "Resource not found"},
			"data of nobody": {func() error { _, err := s.Get(ctx, admin, api.UsernameRequest{Username: "nosuch"}); return err }, "Resource not found"},
			"a pattern": {func() error {
				p := "a b"
				_, err := s.List(ctx, admin, api.ListUsersRequest{NamePattern: &p})
				return err
			}, "body.name_pattern: String should match pattern '^[a-zA-Z0-9-_]*$'"},
			"no public key": {func() error { _, err := s.AddKey(ctx, alice, api.AddPublicKeyRequest{Key: "x"}); return err }, "Invalid public key, must be in OpenSSH public key format"},
			"deletion of admin": {func() error {
				_, err := s.Delete(ctx, admin, api.DeleteUsersRequest{Users: []string{"admin"}})
				return err
			}, "User 'admin' cannot be deleted"},
		} {
			if err := c.call(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		}
	})
}

// Update replaces: what is not sent is cleared.
func TestUpdate(t *testing.T) {
	each(t, func(t *testing.T, s *Service, admin User) {
		email, inactive := "a@example.com", false
		create(t, s, admin, "alice")
		v, err := s.Update(t.Context(), admin, api.CreateUserRequest{Username: "alice", GlobalRole: api.GlobalAdmin, Email: &email, Active: &inactive})
		if err != nil || *v.Email != email || v.Active || v.GlobalRole != api.GlobalAdmin {
			t.Errorf("Update = %+v, %v", v, err)
		}
		v, err = s.Update(t.Context(), admin, api.CreateUserRequest{Username: "alice", GlobalRole: api.GlobalUser})
		if err != nil || v.Email != nil || !v.Active || v.GlobalRole != api.GlobalUser {
			t.Errorf("Update = %+v, %v", v, err)
		}
	})
}

// A member may be named by an e-mail address; one that looks like another's name does not
// stand for that name.
func TestByNameOrEmail(t *testing.T) {
	each(t, func(t *testing.T, s *Service, admin User) {
		ctx := t.Context()
		for name, email := range map[string]string{"eve": "alice", "alice": "alice@example.com"} {
			if _, err := s.Create(ctx, admin, api.CreateUserRequest{Username: name, GlobalRole: api.GlobalUser, Email: &email}); err != nil {
				t.Fatal(err)
			}
		}
		for name, want := range map[string]string{"alice": "alice", "alice@example.com": "alice", "eve": "eve"} {
			if u, err := s.ByNameOrEmail(ctx, s.DB.Read(), name); err != nil || u.Name != want {
				t.Errorf("ByNameOrEmail(%s) = %s, %v, want %s", name, u.Name, err, want)
			}
		}
		for _, name := range []string{"", "nosuch"} {
			if u, err := s.ByNameOrEmail(ctx, s.DB.Read(), name); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("ByNameOrEmail(%q) = %s, %v", name, u.Name, err)
			}
		}
	})
}

func TestList(t *testing.T) {
	each(t, func(t *testing.T, s *Service, admin User) {
		ctx := t.Context()
		names := []string{"admin"}
		for i := range 5 {
			name := fmt.Sprintf("user_%d", i)
			create(t, s, admin, name)
			names = append([]string{name}, names...)
		}
		list := func(caller User, r api.ListUsersRequest) []string {
			t.Helper()
			v, err := s.List(ctx, caller, r)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, u := range v.([]api.User) {
				got = append(got, u.Username)
			}
			return got
		}
		two := 2
		for _, ascending := range []bool{false, true} {
			var got []string
			r := api.ListUsersRequest{Limit: &two, Ascending: ascending}
			for range 4 {
				page := list(admin, r)
				got = append(got, page...)
				if len(page) < two {
					break
				}
				last, err := s.ByName(ctx, s.DB.Read(), page[len(page)-1])
				if err != nil {
					t.Fatal(err)
				}
				at := api.At(last.CreatedAt)
				r.PrevCreatedAt, r.PrevID = &at, &last.ID
			}
			want := append([]string(nil), names...)
			if ascending {
				for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
					want[i], want[j] = want[j], want[i]
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pages, ascending %v (-want +got):\n%s", ascending, diff)
			}
		}
		pattern, none := "ER_3", 0
		if diff := cmp.Diff([]string{"user_3"}, list(admin, api.ListUsersRequest{NamePattern: &pattern})); diff != "" {
			t.Errorf("by pattern (-want +got):\n%s", diff)
		}
		self, err := s.ByName(ctx, s.DB.Read(), "user_1")
		if err != nil {
			t.Fatal(err)
		}
		late := api.At(time.Now())
		if diff := cmp.Diff([]string{"user_1"}, list(self, api.ListUsersRequest{Limit: &none, PrevCreatedAt: &late})); diff != "" {
			t.Errorf("for a user (-want +got):\n%s", diff)
		}
		yes := true
		v, err := s.List(ctx, admin, api.ListUsersRequest{Limit: &none, ReturnTotalCount: &yes})
		if page, ok := v.(api.UsersInfoList); err != nil || !ok || page.TotalCount != len(names) || len(page.Users) != 0 {
			t.Errorf("with the total: %+v, %v", v, err)
		}
	})
}

func TestPageTies(t *testing.T) {
	type item struct {
		at *api.Time
		id string
	}
	now := api.At(time.Unix(1_800_000_000, 0))
	list := []item{{&now, "a"}, {&now, "b"}, {&now, "c"}, {nil, "no time"}} // newest first, ids upwards
	key := func(i item) (*api.Time, string) { return i.at, i.id }
	for _, c := range []struct {
		after     string
		ascending bool
		want      []string
	}{
		{"a", false, []string{"b", "c"}},
		{"c", false, nil},
		{"c", true, []string{"b", "a"}},
		{"a", true, nil},
	} {
		var got []string
		for _, i := range Page(list, &now, &c.after, nil, c.ascending, key) {
			got = append(got, i.id)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("Page after %s, ascending %v (-want +got):\n%s", c.after, c.ascending, diff)
		}
	}
}

func TestPublicKeys(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPIgIE5rZVcjIWBhpRSKHYmBrX2dFkXmnIFKxvhVjDF"
	each(t, func(t *testing.T, s *Service, admin User) {
		ctx := t.Context()
		alice, bob := create(t, s, admin, "alice"), create(t, s, admin, "bob")
		var mu sync.Mutex
		var added []api.PublicKeyInfo
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				v, err := s.AddKey(ctx, alice, api.AddPublicKeyRequest{Key: key + " me@host\n"})
				if err != nil && !api.IsExists(err) {
					t.Errorf("AddKey: %v, want that it exists", err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					added = append(added, v)
				}
			})
		}
		wg.Wait()
		if len(added) != 1 || added[0].Name != "me@host" || added[0].Type != "ssh-ed25519" || !strings.HasPrefix(added[0].Fingerprint, "SHA256:") {
			t.Fatalf("AddKey = %+v, want it once", added)
		}
		if v, err := s.AddKey(ctx, bob, api.AddPublicKeyRequest{Key: key}); err != nil || len(v.Name) != 32 {
			t.Errorf("the same key of another user without a comment: %+v, %v", v, err)
		}
		if _, err := s.DeleteKeys(ctx, bob, api.DeletePublicKeysRequest{IDs: []string{added[0].ID}}); err != nil {
			t.Error(err)
		}
		if list, err := s.Keys(ctx, alice, struct{}{}); err != nil || len(list) != 1 {
			t.Errorf("alice has %d keys (%v) after bob deleted hers, want 1", len(list), err)
		}
		if _, err := s.DeleteKeys(ctx, alice, api.DeletePublicKeysRequest{IDs: []string{added[0].ID, added[0].ID}}); err != nil {
			t.Error(err)
		}
		if list, err := s.Keys(ctx, alice, struct{}{}); err != nil || len(list) != 0 {
			t.Errorf("alice has %d keys (%v), want none", len(list), err)
		}
	})
}

// Neither tokens nor private keys can be read from the file of the database.
func TestNothingInTheClear(t *testing.T) {
	path := storetest.Path(t)
	db := storetest.Open(t, path)
	s, err := New(Config{DB: db, Box: box(t)})
	if err != nil {
		t.Fatal(err)
	}
	admin, used, _, err := s.EnsureAdmin(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.WithCreds(admin)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	private := strings.Split(*v.SSHPrivateKey, "\n")
	for _, file := range []string{path, path + "-wal"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for what, secret := range map[string]string{"token": used, "private key": private[len(private)/2]} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s holds the %s", file, what)
			}
		}
	}
}
