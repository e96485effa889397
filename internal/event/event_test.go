package event

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func record(t *testing.T, db *store.DB, events ...Event) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		for _, e := range events {
			if err := Record(t.Context(), tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func listed(t *testing.T, db *store.DB, v Viewer, r api.ListEventsRequest) []api.Event {
	t.Helper()
	events, err := List(t.Context(), db.Read(), v, r)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func messages(events []api.Event) []string {
	got := []string{}
	for _, e := range events {
		got = append(got, e.Message)
	}
	return got
}

// A message is one line of text, whatever it quotes.
func TestOneLine(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		record(t, db, Event{Message: "Job failed (no \x1bcapacity\nsee\x00there\xff)\n", Targets: []Target{{Type: api.EventTargetRun, ID: uuid.NewString(), Name: "r"}}})
		if got := messages(listed(t, db, Viewer{Admin: true}, api.ListEventsRequest{})); len(got) != 1 || got[0] != "Job failed (no  capacity see there\uFFFD)" {
			t.Errorf("%q", got)
		}
	})
}

// Pages neither repeat nor lose an event, also where many were recorded in one transaction
// and so at one time.
func TestPages(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		target := []Target{{Type: api.EventTargetRun, ID: uuid.NewString(), Name: "r"}}
		for i := range 4 {
			record(t, db, Event{Message: fmt.Sprint(i, "a"), Targets: target}, Event{Message: fmt.Sprint(i, "b"), Targets: target}, Event{Message: fmt.Sprint(i, "c"), Targets: target})
		}
		all := listed(t, db, Viewer{Admin: true}, api.ListEventsRequest{})
		if len(all) != 12 {
			t.Fatalf("%d events, want 12", len(all))
		}
		backwards := slices.Clone(all)
		slices.Reverse(backwards)
		for _, c := range []struct {
			ascending bool
			want      []api.Event
		}{{false, all}, {true, backwards}} {
			for _, size := range []int{1, 2, 5, 12, 13} {
				var got []api.Event
				r := api.ListEventsRequest{Limit: &size, Ascending: c.ascending}
				for {
					page := listed(t, db, Viewer{Admin: true}, r)
					got = append(got, page...)
					if len(page) < size {
						break
					}
					last := page[len(page)-1]
					r.PrevRecordedAt, r.PrevID = &last.RecordedAt, &last.ID
				}
				if diff := cmp.Diff(messages(c.want), messages(got)); diff != "" {
					t.Errorf("pages of %d, ascending %v (-want +got):\n%s", size, c.ascending, diff)
				}
			}
		}
	})
}

func TestFilters(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		id := map[string]string{}
		for _, name := range []string{"p1", "p2", "alice", "bob", "run", "job", "fleet", "inst", "secret"} {
			id[name] = uuid.NewString()
		}
		record(t, db,
			Event{Message: "run", ActorID: id["alice"], ActorName: "alice", ProjectID: id["p1"], Targets: []Target{{Type: api.EventTargetRun, ID: id["run"], Name: "run"}}},
			Event{Message: "job", ProjectID: id["p1"], Targets: []Target{
				{Type: api.EventTargetJob, ID: id["job"], Name: "job", ParentID: id["run"]},
				{Type: api.EventTargetInstance, ID: id["inst"], Name: "inst", ParentID: id["fleet"]}}},
			Event{Message: "fleet", ActorID: id["bob"], ActorName: "bob", ProjectID: id["p2"], Targets: []Target{{Type: api.EventTargetFleet, ID: id["fleet"], Name: "fleet"}}},
			Event{Message: "user", ActorID: id["alice"], ActorName: "alice", Targets: []Target{{Type: api.EventTargetUser, ID: id["bob"], Name: "bob"}}},
			Event{Message: "secret", ProjectID: id["p2"], Targets: []Target{{Type: api.EventTargetSecret, ID: id["secret"], Name: "s"}}},
		)
		actor := id["alice"]
		for name, c := range map[string]struct {
			viewer Viewer
			r      api.ListEventsRequest
			want   string
		}{
			"everything":                     {Viewer{Admin: true}, api.ListEventsRequest{}, "fleet job run secret user"},
			"a run":                          {Viewer{Admin: true}, api.ListEventsRequest{TargetRuns: []string{id["run"]}}, "run"},
			"an id of another kind":          {Viewer{Admin: true}, api.ListEventsRequest{TargetRuns: []string{id["fleet"]}}, ""},
			"within a run":                   {Viewer{Admin: true}, api.ListEventsRequest{WithinRuns: []string{id["run"]}}, "job run"},
			"within a fleet":                 {Viewer{Admin: true}, api.ListEventsRequest{WithinFleets: []string{id["fleet"]}}, "fleet job"},
			"within projects":                {Viewer{Admin: true}, api.ListEventsRequest{WithinProjects: []string{id["p1"], id["p2"]}}, "fleet job run secret"},
			"by type":                        {Viewer{Admin: true}, api.ListEventsRequest{IncludeTargetTypes: []api.EventTargetType{"user", "secret"}}, "secret user"},
			"type and project of one target": {Viewer{Admin: true}, api.ListEventsRequest{WithinFleets: []string{id["fleet"]}, IncludeTargetTypes: []api.EventTargetType{"job"}}, ""},
			"by actor":                       {Viewer{Admin: true}, api.ListEventsRequest{Actors: []*string{&actor}}, "run user"},
			"by the server":                  {Viewer{Admin: true}, api.ListEventsRequest{Actors: []*string{nil}}, "job secret"},
			"a member":                       {Viewer{UserID: id["alice"], Projects: []string{id["p1"]}}, api.ListEventsRequest{}, "job run"},
			"of no project":                  {Viewer{UserID: id["alice"]}, api.ListEventsRequest{}, ""},
			"about oneself":                  {Viewer{UserID: id["bob"]}, api.ListEventsRequest{}, "user"},
			"a member asks for another's":    {Viewer{UserID: id["alice"], Projects: []string{id["p1"]}}, api.ListEventsRequest{WithinProjects: []string{id["p2"]}}, ""},
		} {
			got := messages(listed(t, db, c.viewer, c.r))
			slices.Sort(got)
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%s: %q, want %q", name, s, c.want)
			}
		}
		for name, r := range map[string]api.ListEventsRequest{
			"two targets": {TargetRuns: []string{id["run"]}, TargetUsers: []string{id["bob"]}},
			"two withins": {WithinRuns: []string{id["run"]}, WithinFleets: []string{id["fleet"]}},
		} {
			if _, err := List(t.Context(), db.Read(), Viewer{Admin: true}, r); err == nil {
				t.Errorf("%s were taken", name)
			}
		}
	})
}

// What is gone is shown by its name.
func TestDeletedActorAndProject(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		u, p := uuid.NewString(), uuid.NewString()
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.ExecContext(t.Context(), `
INSERT INTO account (id, name, global_role, token_hash, token_sealed, public_key, private_sealed, created_at, deleted) VALUES ($1, 'gone', 'user', 'h', 's', 'k', 's', 1, TRUE)`, u)
			if err != nil {
				return err
			}
			_, err = tx.ExecContext(t.Context(), `
INSERT INTO project (id, name, owner_id, public_key, private_sealed, created_at, deleted) VALUES ($1, 'old', $2, 'k', 's', 1, TRUE)`, p, u)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		record(t, db, Event{Message: "m", ActorID: u, ActorName: "gone", ProjectID: p, Targets: []Target{{Type: api.EventTargetSecret, ID: uuid.NewString(), Name: "s"}}})
		e := listed(t, db, Viewer{Admin: true}, api.ListEventsRequest{})[0]
		if *e.ActorUser != "gone" || !*e.IsActorUserDeleted || *e.Targets[0].ProjectName != "old" || !*e.Targets[0].IsProjectDeleted {
			t.Errorf("actor %s, deleted %v; project %s, deleted %v", *e.ActorUser, *e.IsActorUserDeleted, *e.Targets[0].ProjectName, *e.Targets[0].IsProjectDeleted)
		}
	})
}

// An event of a change that was undone is undone with it.
func TestRecordIsPartOfTheChange(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			if err := Record(t.Context(), tx, Event{Message: "never", Targets: []Target{{Type: api.EventTargetRun, ID: uuid.NewString(), Name: "r"}}}); err != nil {
				t.Error(err)
			}
			return store.ErrConflict
		})
		if err == nil {
			t.Error("the transaction was committed")
		}
		if got := listed(t, db, Viewer{Admin: true}, api.ListEventsRequest{}); len(got) != 0 {
			t.Errorf("events %v", messages(got))
		}
	})
}

func TestExpire(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const old = 2*expireBatch + 7
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			for n := range old {
				id := fmt.Sprint("e", n)
				if _, err := tx.ExecContext(t.Context(), `INSERT INTO event (id, message, recorded_at) VALUES ($1, 'm', $2)`, id, n/2); err != nil {
					return err
				}
				_, err := tx.ExecContext(t.Context(), `INSERT INTO event_target (event_id, num, project_id, recorded_at, type, target_id, name, parent_id) VALUES ($1, 0, 'p', $2, 'run', 'r', 'r', '')`, id, n/2)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		record(t, db, Event{Message: "m", Targets: []Target{{Type: api.EventTargetRun, ID: uuid.NewString(), Name: "r"}}})
		left := func() (events, targets int) {
			t.Helper()
			err := db.Read().QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM event_target)`).Scan(&events, &targets)
			if err != nil {
				t.Fatal(err)
			}
			return events, targets
		}
		if events, targets := left(); events != old+1 || targets != old+1 {
			t.Fatalf("%d events with %d targets", events, targets)
		}
		err = db.Write(t.Context(), func(tx *store.Tx) error {
			more, err := expireSome(t.Context(), tx, time.Now().Add(-time.Hour))
			if !more {
				t.Error("there is no more")
			}
			return err
		})
		if events, targets := left(); err != nil || events != old+1-expireBatch || targets != events {
			t.Errorf("one transaction leaves %d events with %d targets, want %d (%v)", events, targets, old+1-expireBatch, err)
		}
		for _, c := range []struct {
			before time.Time
			want   int
		}{{time.Now().Add(-time.Hour), 1}, {time.Now().Add(time.Hour), 0}} {
			if err := Expire(t.Context(), db, c.before); err != nil {
				t.Fatal(err)
			}
			if events, targets := left(); events != c.want || targets != c.want {
				t.Errorf("%d events with %d targets are left, want %d", events, targets, c.want)
			}
		}
	})
}
