package project

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/crypt"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
	"dstack/internal/user"
)

// world is a service with users of every kind.
type world struct {
	*Service
	admin user.User
	busy  string // what forbids deletion
	mu    sync.Mutex
	hooks []string // what others were told in transactions, also in those that were repeated
	// noTemplates is why no repository of templates can be read.
	noTemplates error
}

func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		box, err := crypt.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		users, err := user.New(user.Config{DB: db, Box: box, CanCreateProjects: true})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{}
		w.Service, err = New(Config{DB: db, Box: box, Users: users, Permissions: Permissions{CreateProjects: true, Quota: 3},
			Busy:           func(context.Context, store.Querier, Project) (string, error) { return w.busy, nil },
			Created:        func(_ context.Context, _ *store.Tx, p Project) error { w.hooked("created", p); return nil },
			Deleted:        func(_ context.Context, _ *store.Tx, p Project) error { w.hooked("deleted", p); return nil },
			CheckTemplates: func(context.Context, string) error { return w.noTemplates }})
		if err != nil {
			t.Fatal(err)
		}
		if w.admin, _, _, err = users.EnsureAdmin(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
		fn(t, w)
	})
}

// hooked notes that others were told of a project.
func (w *world) hooked(what string, p Project) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hooks = append(w.hooks, what+" "+p.Name)
}

func (w *world) addUser(t *testing.T, name string) user.User {
	t.Helper()
	email := name + "@example.com"
	if _, err := w.Users.Create(t.Context(), w.admin, api.CreateUserRequest{Username: name, GlobalRole: api.GlobalUser, Email: &email}); err != nil {
		t.Fatal(err)
	}
	u, err := w.Users.ByName(t.Context(), w.DB.Read(), name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (w *world) addProject(t *testing.T, name string) Project {
	t.Helper()
	p, err := w.Ensure(t.Context(), name, w.admin)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// as is u's view of p now.
func (w *world) as(t *testing.T, u user.User, p Project) Scope {
	t.Helper()
	role, err := w.Role(t.Context(), p.ID, u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = w.ByID(t.Context(), w.DB.Read(), p.ID); err != nil {
		t.Fatal(err)
	}
	return Scope{Project: p, User: u, Role: role}
}

func settings(pairs ...string) api.MembersRequest {
	var r api.MembersRequest
	for i := 0; i < len(pairs); i += 2 {
		r.Members = append(r.Members, api.MemberSetting{Username: pairs[i], ProjectRole: api.ProjectRole(pairs[i+1])})
	}
	return r
}

func (w *world) memberList(t *testing.T, p Project) []string {
	t.Helper()
	v, err := w.View(t.Context(), p, true)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, m := range v.Members {
		list = append(list, m.User.Username+" "+string(m.ProjectRole))
	}
	return list
}

func TestMembers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		people := map[string]user.User{"admin": w.admin}
		for _, name := range []string{"boss", "lead", "member", "guest"} {
			people[name] = w.addUser(t, name)
		}
		set := func(m ...string) func(Scope) error {
			return func(sc Scope) error { _, err := w.SetMembers(ctx, sc, settings(m...)); return err }
		}
		add := func(m ...string) func(Scope) error {
			return func(sc Scope) error { _, err := w.AddMembers(ctx, sc, settings(m...)); return err }
		}
		remove := func(names ...string) func(Scope) error {
			return func(sc Scope) error {
				_, err := w.RemoveMembers(ctx, sc, api.RemoveMembersRequest{Usernames: names})
				return err
			}
		}
		start := []string{"boss admin", "lead manager", "member user"}
		for i, c := range []struct {
			who    string
			public bool
			do     func(Scope) error
			err    string
			want   []string
		}{
			{who: "admin", do: set("guest", "user", "boss", "admin"), want: []string{"guest user", "boss admin"}},
			{who: "admin", do: set("nosuch", "user", "boss", "admin"), want: []string{"boss admin"}},
			{who: "admin", do: set("guest", "user", "guest", "admin"), err: "Cannot add same user multiple times"},
			{who: "boss", do: set("boss", "admin", "guest", "admin"), want: []string{"boss admin", "guest admin"}},
			{who: "lead", do: set("boss", "admin", "lead", "admin"), err: "Access denied: changing project admins"},
			{who: "lead", do: set("lead", "manager"), err: "Access denied: changing project admins"},
			{who: "lead", do: set("boss", "admin", "guest", "user"), want: []string{"boss admin", "guest user"}},
			{who: "lead", do: add("guest", "manager"), want: append(start[:3:3], "guest manager")},
			{who: "lead", do: add("guest", "admin"), err: "Access denied: only global admins can add project admins"},
			{who: "lead", do: add("member", "manager"), want: []string{"boss admin", "lead manager", "member manager"}},
			{who: "lead", do: add("boss", "user"), err: "Access denied: changing project admins"},
			{who: "boss", do: add("boss", "user"), err: "Cannot remove all project admins"},
			{who: "admin", do: add("boss", "manager"), err: "Cannot remove all project admins"},
			{who: "boss", do: add("guest", "admin", "boss", "user"), want: []string{"boss user", "lead manager", "member user", "guest admin"}},
			{who: "boss", do: add("guest", "user", "guest", "manager"), err: "Cannot add same user multiple times"},
			{who: "boss", do: add("guest", "user", "guest@example.com", "user"), err: "Cannot add same user multiple times"},
			{who: "boss", do: add("nosuch", "user"), err: "User not found: nosuch"},
			{who: "boss", do: add("guest", "user", "nosuch", "user"), err: "User not found: nosuch"},
			{who: "member", do: add("guest", "user"), err: "Access denied: insufficient permissions to add members"},
			{who: "member", do: add("member", "admin"), err: "Access denied: insufficient permissions to add members"},
			{who: "member", public: true, do: add("member", "manager"), err: "Access denied: insufficient permissions to add members"},
			{who: "guest", public: true, do: add("guest", "user"), want: append(start[:3:3], "guest user")},
			{who: "guest", public: true, do: add("guest@example.com", "user"), want: append(start[:3:3], "guest user")},
			{who: "guest", public: true, do: add("member@example.com", "user"), err: "Access denied: insufficient permissions to add members"},
			{who: "guest", public: true, do: add("guest", "manager"), err: "Access denied: can only join public projects as user role"},
			{who: "guest", public: true, do: add("guest", "user", "member", "user"), err: "Access denied: insufficient permissions to add members"},
			{who: "guest", do: add("guest", "user"), err: "Access denied: insufficient permissions to add members"},
			{who: "member", do: remove("member"), want: start[:2]},
			{who: "member", do: remove("member@example.com"), want: start[:2]},
			{who: "guest", do: remove("guest"), err: "Access denied: insufficient permissions to remove members"},
			{who: "member", do: remove("lead"), err: "Access denied: insufficient permissions to remove members"},
			{who: "lead", do: remove("member"), want: start[:2]},
			{who: "lead", do: remove("boss"), err: "Access denied: only global admins can remove project admins (user: boss)"},
			{who: "boss", do: remove("boss"), err: "Cannot leave project: you are the last admin"},
			{who: "admin", do: remove("boss"), err: "Cannot remove all project admins"},
			{who: "admin", do: remove("guest"), err: "User is not a member of this project: guest"},
			{who: "admin", do: remove("nosuch"), err: "User not found: nosuch"},
			{who: "admin", do: remove("member", "nosuch"), err: "User not found: nosuch"},
		} {
			p := w.addProject(t, fmt.Sprintf("p%d", i))
			if _, err := w.SetMembers(ctx, w.as(t, w.admin, p), settings("boss", "admin", "lead", "manager", "member", "user")); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Update(ctx, w.as(t, w.admin, p), api.UpdateProjectRequest{IsPublic: &c.public}); err != nil {
				t.Fatal(err)
			}
			err := c.do(w.as(t, people[c.who], p))
			if c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) {
				t.Errorf("case %d, as %s: %v, want %q", i, c.who, err, c.err)
			}
			want := c.want
			if c.err != "" {
				want = start
			}
			if diff := cmp.Diff(want, w.memberList(t, p)); diff != "" {
				t.Errorf("case %d: members (-want +got):\n%s", i, diff)
			}
		}
	})
}

// Two admins that leave at the same time do not leave a project without one.
func TestLastAdminsLeaveTogether(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		one, two := w.addUser(t, "one"), w.addUser(t, "two")
		p := w.addProject(t, "p")
		if _, err := w.SetMembers(t.Context(), w.as(t, w.admin, p), settings("one", "admin", "two", "admin")); err != nil {
			t.Fatal(err)
		}
		scopes := []Scope{w.as(t, one, p), w.as(t, two, p)}
		var wg sync.WaitGroup
		for _, sc := range scopes {
			wg.Go(func() { // one of them is refused
				_, err := w.RemoveMembers(t.Context(), sc, api.RemoveMembersRequest{Usernames: []string{sc.User.Name}})
				if refused, ok := errors.AsType[*api.Error](err); err != nil && !ok {
					t.Errorf("%s leaves: %v", sc.User.Name, refused)
				}
			})
		}
		wg.Wait()
		if got := w.memberList(t, p); len(got) != 1 {
			t.Errorf("members are %v, want one admin", got)
		}
	})
}

func TestUniqueNames(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		results := make(chan error, 6)
		var wg sync.WaitGroup
		for i := range cap(results) {
			wg.Go(func() {
				_, err := w.Create(t.Context(), w.admin, api.CreateProjectRequest{ProjectName: []string{"team", "Team"}[i%2]})
				results <- err
			})
		}
		wg.Wait()
		close(results)
		made := 0
		for err := range results {
			if err == nil {
				made++
			} else if !api.IsExists(err) {
				t.Errorf("Create: %v, want that it exists", err)
			}
		}
		if made != 1 {
			t.Errorf("%d projects of one name", made)
		}
		if p, err := w.ByName(t.Context(), w.DB.Read(), "TEAM"); err != nil || !strings.EqualFold(p.Name, "team") {
			t.Errorf("ByName(TEAM) = %q, %v", p.Name, err)
		}
	})
}

func TestEnsureTogether(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ids := make(chan string, 4)
		var wg sync.WaitGroup
		for range cap(ids) {
			wg.Go(func() {
				p, err := w.Ensure(t.Context(), "main", w.admin)
				if err != nil {
					t.Error(err)
				}
				ids <- p.ID
			})
		}
		wg.Wait()
		close(ids)
		first := <-ids
		for id := range ids {
			if id != first {
				t.Errorf("two projects: %s and %s", first, id)
			}
		}
	})
}

func TestCreate(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		alice := w.addUser(t, "alice")
		for _, name := range []string{"", "a b", "a/b", "ä", strings.Repeat("x", 51)} {
			if _, err := w.Create(ctx, w.admin, api.CreateProjectRequest{ProjectName: name}); err == nil || err.Error() != "Project name should match regex '^[a-zA-Z0-9-_]{1,50}$'" {
				t.Errorf("Create(%q): %v", name, err)
			}
		}
		for i := range 3 {
			v, err := w.Create(ctx, alice, api.CreateProjectRequest{ProjectName: fmt.Sprintf("p%d", i)})
			if err != nil || v.Owner.Username != "alice" || len(v.Members) != 1 || v.Members[0].ProjectRole != api.ProjectAdmin {
				t.Fatalf("Create = %+v, %v", v, err)
			}
		}
		if _, err := w.Create(ctx, alice, api.CreateProjectRequest{ProjectName: "p3"}); err == nil || err.Error() != "User project quota exceeded" {
			t.Errorf("the fourth project of a quota of three: %v", err)
		}
		if _, err := w.Create(ctx, w.admin, api.CreateProjectRequest{ProjectName: "p3"}); err != nil {
			t.Errorf("an admin has no quota: %v", err)
		}
		w.Permissions.CreateProjects = false
		if _, err := w.Create(ctx, alice, api.CreateProjectRequest{ProjectName: "p4"}); err == nil || err.Error() != "User cannot create projects" {
			t.Errorf("forbidden by the server's defaults: %v", err)
		}
	})
}

func TestUpdateTogether(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p := w.addProject(t, "p")
		sc := w.as(t, w.admin, p)
		yes, url := true, "https://example.com/templates"
		var wg sync.WaitGroup
		for _, r := range []api.UpdateProjectRequest{{IsPublic: &yes}, {TemplatesRepo: &url}} {
			wg.Go(func() {
				for { // the loser of a race is told to try again
					_, err := w.Update(t.Context(), sc, r)
					if errors.Is(err, store.ErrConflict) {
						continue
					}
					if err != nil {
						t.Error(err)
					}
					return
				}
			})
		}
		wg.Wait()
		got := w.as(t, w.admin, p).Project
		if !got.IsPublic || got.TemplatesRepo != url {
			t.Errorf("public %v, templates %q: an update was lost", got.IsPublic, got.TemplatesRepo)
		}
		if _, err := w.Update(t.Context(), sc, api.UpdateProjectRequest{ResetTemplatesRepo: true}); err != nil {
			t.Fatal(err)
		}
		if got := w.as(t, w.admin, p).Project; got.TemplatesRepo != "" || !got.IsPublic {
			t.Errorf("after the reset: public %v, templates %q", got.IsPublic, got.TemplatesRepo)
		}
	})
}

func TestDelete(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		alice := w.addUser(t, "alice")
		p := w.addProject(t, "p")
		del := func(u user.User, names ...string) error {
			_, err := w.Delete(ctx, u, api.DeleteProjectsRequest{ProjectsNames: names})
			return err
		}
		for _, c := range []struct {
			who   user.User
			busy  string
			names []string
			want  string
		}{
			{alice, "", []string{"p"}, "Access denied"},
			{alice, "", []string{"nosuch"}, "Access denied"}, // tells nobody which names exist
			{w.admin, "", []string{"p", "nosuch"}, "Failed to delete non-existent projects"},
			{w.admin, "", []string{"p", "p"}, "Failed to delete non-existent projects"},
			{w.admin, "Failed to delete project with active runs: ['r']", []string{"p"}, "Failed to delete project with active runs: ['r']"},
		} {
			w.busy = c.busy
			if err := del(c.who, c.names...); err == nil || err.Error() != c.want {
				t.Errorf("Delete(%v) as %s: %v, want %s", c.names, c.who.Name, err, c.want)
			}
			if _, err := w.ByName(ctx, w.DB.Read(), "p"); err != nil {
				t.Fatalf("after the refused Delete(%v): %v", c.names, err)
			}
		}
		w.busy = ""
		results := make(chan error, 4)
		var wg sync.WaitGroup
		for range cap(results) {
			wg.Go(func() { results <- del(w.admin, "p") })
		}
		wg.Wait()
		close(results)
		deleted := 0
		for err := range results {
			if err == nil {
				deleted++
			} else if err.Error() != "Failed to delete non-existent projects" {
				t.Errorf("Delete: %v", err)
			}
		}
		if deleted != 1 {
			t.Errorf("deleted %d times", deleted)
		}
		if again := w.addProject(t, "p"); again.ID == p.ID {
			t.Error("the name of a deleted project leads to it")
		}
	})
}

// Others hear of projects that are made and deleted, and of no other.
func TestHooks(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.addProject(t, "p")
		w.busy = "busy"
		if _, err := w.Delete(t.Context(), w.admin, api.DeleteProjectsRequest{ProjectsNames: []string{"p"}}); err == nil {
			t.Error("a busy project was deleted")
		}
		w.busy = ""
		if _, err := w.Delete(t.Context(), w.admin, api.DeleteProjectsRequest{ProjectsNames: []string{"p"}}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"created p", "deleted p"}, w.hooks); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

// A repository of templates has to be readable when it is set.
func TestTemplatesRepo(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx, repo, none := t.Context(), "https://example.com/t", ""
		w.noTemplates = errors.New("no route to host")
		const want = "Cannot access templates repo: https://example.com/t"
		if _, err := w.Create(ctx, w.admin, api.CreateProjectRequest{ProjectName: "p", TemplatesRepo: &repo}); err == nil || err.Error() != want {
			t.Errorf("Create: %v, want %s", err, want)
		}
		p := w.addProject(t, "p")
		if _, err := w.Update(ctx, w.as(t, w.admin, p), api.UpdateProjectRequest{TemplatesRepo: &repo}); err == nil || err.Error() != want {
			t.Errorf("Update: %v, want %s", err, want)
		}
		for _, r := range []api.UpdateProjectRequest{{TemplatesRepo: &none}, {TemplatesRepo: &repo, ResetTemplatesRepo: true}} {
			if _, err := w.Update(ctx, w.as(t, w.admin, p), r); err != nil {
				t.Errorf("Update to none: %v", err)
			}
		}
	})
}

// TestOwnerIsGone shows a project whose owner and member are in no row any more.
func TestOwnerIsGone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p := w.addProject(t, "p")
		if err := w.DB.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.ExecContext(t.Context(), `UPDATE member SET user_id = 'lost' WHERE project_id = $1`, p.ID); err != nil {
				return err
			}
			_, err := tx.ExecContext(t.Context(), `UPDATE project SET owner_id = 'lost' WHERE id = $1`, p.ID)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		p, err := w.ByID(t.Context(), w.DB.Read(), p.ID)
		if err != nil {
			t.Fatal(err)
		}
		v, err := w.View(t.Context(), p, true)
		if err != nil || v.Owner.Username != "(unknown)" || v.Owner.GlobalRole != api.GlobalUser || uuid.Validate(v.Owner.ID) != nil {
			t.Errorf("View = owner %+v, %v, want one who is not known", v.Owner, err)
		}
		for _, m := range v.Members {
			if m.User.Username != "(unknown)" {
				t.Errorf("member %+v, want one who is not known", m)
			}
		}
	})
}

func TestListVisibility(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		alice := w.addUser(t, "alice")
		yes, no := true, false
		for _, name := range []string{"hidden", "open", "mine"} {
			p := w.addProject(t, name)
			if name == "open" {
				if _, err := w.Update(ctx, w.as(t, w.admin, p), api.UpdateProjectRequest{IsPublic: &yes}); err != nil {
					t.Fatal(err)
				}
			}
			if name == "mine" {
				if _, err := w.AddMembers(ctx, w.as(t, w.admin, p), settings("alice", "user")); err != nil {
					t.Fatal(err)
				}
			}
		}
		self, nobody, one := "alice", "nosuch", 1
		for name, c := range map[string]struct {
			who  user.User
			r    api.ListProjectsRequest
			want []string
		}{
			"an admin":            {w.admin, api.ListProjectsRequest{}, []string{"mine", "open", "hidden"}},
			"a user":              {alice, api.ListProjectsRequest{}, []string{"mine", "open"}},
			"a user, only joined": {alice, api.ListProjectsRequest{IncludeNotJoined: &no}, []string{"mine"}},
			"of one member":       {w.admin, api.ListProjectsRequest{Username: &self}, []string{"mine"}},
			"of nobody":           {w.admin, api.ListProjectsRequest{Username: &nobody}, nil},
			"oldest first":        {w.admin, api.ListProjectsRequest{Ascending: true, Limit: &one}, []string{"hidden"}},
		} {
			v, err := w.List(ctx, c.who, c.r)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range v.([]api.Project) {
				got = append(got, p.ProjectName)
				if len(p.Members) != 0 || len(p.Backends) != 0 {
					t.Errorf("%s: %s has members or backends in a list", name, p.ProjectName)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("List as %s (-want +got):\n%s", name, diff)
			}
		}
	})
}

func TestDerivedPermissions(t *testing.T) {
	for _, c := range []struct {
		role               api.ProjectRole
		global             bool
		perms              Permissions
		sshFleets, secrets bool
	}{
		{api.ProjectUser, false, Permissions{ManageSSHFleets: true}, true, false},
		{api.ProjectUser, false, Permissions{ManagersSecrets: true}, false, false},
		{api.ProjectManager, false, Permissions{}, false, false},
		{api.ProjectManager, false, Permissions{ManagersSecrets: true}, false, true},
		{api.ProjectAdmin, false, Permissions{}, true, true},
		{"", true, Permissions{}, true, true},
	} {
		s := &Service{Config{Permissions: c.perms}}
		sc := Scope{Role: c.role}
		if c.global {
			sc.User.GlobalRole = api.GlobalAdmin
		}
		if f, v := s.CanManageSSHFleets(sc), s.CanManageSecrets(sc); f != c.sshFleets || v != c.secrets {
			t.Errorf("%+v: fleets %v, secrets %v", c, f, v)
		}
	}
}
