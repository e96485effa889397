package instance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// What is remembered is as good as what would be read.
func TestKnownInstancesAreAsStored(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, s := t.Context(), &Service{Config: Config{DB: db}, known: newKnown()}
		write := func(fn func(tx *store.Tx) error) {
			t.Helper()
			if err := db.Write(ctx, fn); err != nil {
				t.Fatal(err)
			}
		}
		check := func(what string) {
			t.Helper()
			want, err := OfFleets(ctx, db.Read(), "f0", "f1")
			if err != nil {
				t.Fatal(err)
			}
			known, err := s.InFleets(ctx, db.Read(), "f0", "f1", "none")
			if err != nil {
				t.Fatal(err)
			}
			var got []Instance
			for _, id := range []string{"f0", "f1", "none"} {
				for _, i := range known[id] {
					got = append(got, *i)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-stored +known):\n%s", what, diff)
			}
		}
		all := make([]Instance, 5)
		write(func(tx *store.Tx) error {
			for n := range all {
				all[n] = Instance{ID: fmt.Sprint("i", n), ProjectID: "p", FleetID: fmt.Sprint("f", n%2), Num: n, Name: "i", Status: api.InstanceIdle, Blocks: 2, CreatedAt: time.UnixMicro(1).UTC(), Data: Data{Remote: &RemoteHost{}}}
				if err := insert(ctx, tx, &all[n]); err != nil {
					return err
				}
			}
			return nil
		})
		check("new")
		check("again")
		write(func(tx *store.Tx) error {
			all[1].Status = api.InstanceBusy
			if err := assign(ctx, tx, &all[1], Assignment{JobID: "j", Blocks: 1}, "r"); err != nil {
				return err
			}
			return s.update(ctx, tx, &all[1])
		})
		check("assigned")
		write(func(tx *store.Tx) error {
			all[2].Deleted = true
			return s.update(ctx, tx, &all[2])
		})
		check("deleted")
		write(func(tx *store.Tx) error { // by somebody else
			_, err := tx.ExecContext(ctx, `UPDATE instance SET unreachable = TRUE, version = version + 1 WHERE id = 'i0'`)
			return err
		})
		check("changed by another")
		write(func(tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE instance SET fleet_id = 'f1', num = 7, version = version + 1 WHERE id = 'i0'`)
			return err
		})
		check("moved by another")
		write(func(tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM instance WHERE id = 'i0'`)
			return err
		})
		check("deleted by another")
		write(func(tx *store.Tx) error {
			all[4].Status = api.InstanceTerminating
			return s.update(ctx, tx, &all[4])
		})
		check("changed")
		write(func(tx *store.Tx) error {
			return insert(ctx, tx, &Instance{ID: "i9", ProjectID: "p", FleetID: "f1", Num: 2, Name: "i", Status: api.InstanceIdle, CreatedAt: time.UnixMicro(2).UTC()})
		})
		check("one more")
		if db.Engine() == store.SQLite { // somebody makes the counts what no trigger can add to
			write(func(tx *store.Tx) error {
				_, err := tx.ExecContext(ctx, `UPDATE fleet_changes SET changes = 9e999`)
				return err
			})
			check("counted no more")
		}
		write(func(tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE instance SET unreachable = TRUE, version = version + 1 WHERE id = 'i1'`)
			return err
		})
		check("changed while it is not counted")
		if db.Engine() == store.SQLite {
			write(func(tx *store.Tx) error {
				_, err := tx.ExecContext(ctx, `DELETE FROM fleet_changes`)
				return err
			})
			check("never counted")
			write(func(tx *store.Tx) error { // which no trigger adds to what is not there
				_, err := tx.ExecContext(ctx, `DELETE FROM instance WHERE id = 'i9'`)
				return err
			})
			check("deleted while it is not counted")
		}
		write(func(tx *store.Tx) error {
			all[4].Status = api.InstanceIdle
			return s.update(ctx, tx, &all[4])
		})
		check("changed, however that is counted")
		undone := errors.New("undone")
		err := db.Write(ctx, func(tx *store.Tx) error {
			all[3].Deleted = true
			return errors.Join(s.update(ctx, tx, &all[3]), undone)
		})
		if !errors.Is(err, undone) {
			t.Fatal(err)
		}
		check("undone")
		if list, err := s.InFleets(ctx, db.Read()); err != nil || len(list) != 0 {
			t.Errorf("of no fleet: %v, %v", list, err)
		}
	})
}

// Whoever asks for instances that somebody else is reading waits, and does not read them again; nor does
// anybody later, for as long as nothing changes.
func TestInstancesAreReadOnceForAll(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		ctx, s := t.Context(), &Service{Config: Config{DB: db}, known: newKnown()}
		stored(t, db, "i")
		q := &counted{Querier: db.Read()}
		second := make(chan []*Instance, 1)
		q.reading = func() {
			go func() {
				list, err := s.InFleets(ctx, q, "f", "none")
				if err != nil {
					t.Error(err)
				}
				second <- list["f"]
			}()
			synctest.Wait() // until it waits
		}
		first, err := s.InFleets(ctx, q, "f", "none")
		if err != nil {
			t.Fatal(err)
		}
		if list := <-second; len(list) != 1 || len(first["f"]) != 1 || list[0] != first["f"][0] || q.texts != 1 {
			t.Errorf("%d and %d instances, read %d times, want the same one, read once", len(first["f"]), len(list), q.texts)
		}
		if _, err := s.InFleets(ctx, q, "f", "none"); err != nil || q.texts != 1 {
			t.Errorf("read %d times though nothing has changed, %v", q.texts, err)
		}
	})
}

// An instance that came between the first look and the reading is not there for ever when it goes again and
// leaves the fleet as it was.
func TestInstanceThatCameAndWent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, s := t.Context(), &Service{Config: Config{DB: db}, known: newKnown()}
		stored(t, db, "i")
		q := &counted{Querier: db.Read(), reading: func() { stored(t, db, "j") }}
		for _, want := range []int{2, 1} {
			list, err := s.InFleets(ctx, q, "f")
			if err != nil || len(list["f"]) != want {
				t.Fatalf("%d instances, %v, want %d", len(list["f"]), err, want)
			}
			err = db.Write(ctx, func(tx *store.Tx) error {
				j, err := s.Get(ctx, tx, "j")
				j.Deleted = true
				return errors.Join(err, s.update(ctx, tx, &j))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What another server began to write before this one looked, and committed after, is seen.
func TestInstancesOfTwoServers(t *testing.T) {
	url := storetest.PostgresURL(t) // SQLite has one writer at a time
	ctx := t.Context()
	var servers [2]*Service
	for n := range servers {
		servers[n] = &Service{Config: Config{DB: storetest.Open(t, url)}, known: newKnown()}
	}
	stored(t, servers[0].DB, "i")
	stored(t, servers[0].DB, "j")
	unreachable := func(what string, want ...bool) {
		t.Helper()
		for n, s := range servers {
			list, err := s.InFleets(ctx, s.DB.Read(), "f")
			if err != nil {
				t.Fatal(err)
			}
			var got []bool
			for _, i := range list["f"] {
				got = append(got, i.Unreachable)
			}
			if !slices.Equal(got, want) {
				t.Errorf("server %d, %s: unreachable are %v, want %v", n, what, got, want)
			}
		}
	}
	write := func(s *Service, id string, before func()) {
		t.Helper()
		err := s.DB.Write(ctx, func(tx *store.Tx) error {
			i, err := s.Get(ctx, tx, id)
			i.Unreachable = !i.Unreachable
			err = errors.Join(err, s.update(ctx, tx, &i))
			before()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	unreachable("at first", false, false)
	write(servers[0], "i", func() {
		write(servers[1], "j", func() { unreachable("before any commit", false, false) })
		unreachable("after the commit of who began later", false, true)
	})
	unreachable("after both", true, true)
	write(servers[1], "i", func() {})
	write(servers[0], "j", func() {})
	unreachable("as they were", false, false)
}

// What this server writes is followed without a look at the fleet, and whatever others write is seen between.
func TestWritesAreFollowed(t *testing.T) {
	db := storetest.SQLite(t)
	ctx, s := t.Context(), &Service{Config: Config{DB: db}, known: newKnown()}
	q := &counted{Querier: db.Read(), reading: func() {}}
	fleets := []string{"f0", "f1"}
	var given, copies [][]*Instance
	look := func(what string) {
		t.Helper()
		want, err := OfFleets(ctx, db.Read(), fleets...)
		if err != nil {
			t.Fatal(err)
		}
		known, err := s.InFleets(ctx, q, fleets...)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(given, copies, slices.Equal) {
			t.Fatalf("%s: the lists of the last look are others", what)
		}
		var got []Instance
		given, copies = nil, nil
		for _, id := range fleets {
			for _, i := range known[id] {
				got = append(got, *i)
			}
			given, copies = append(given, known[id]), append(copies, slices.Clone(known[id]))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s (-stored +known):\n%s", what, diff)
		}
	}
	flip := func(tx *store.Tx, id string, end bool) error {
		i, err := s.Get(ctx, tx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		i.Unreachable, i.Deleted = !i.Unreachable, i.Deleted || end
		return errors.Join(err, s.update(ctx, tx, &i))
	}
	r := rand.New(rand.NewPCG(31, 32))
	undone := errors.New("undone")
	var num, own, others, undos, looks int
	for step := range 600 {
		err := db.Write(ctx, func(tx *store.Tx) error {
			id := fmt.Sprint("i", 1+r.IntN(num+1))
			switch r.IntN(12) {
			case 0:
				others++
				num++
				return insert(ctx, tx, &Instance{ID: fmt.Sprint("i", num), ProjectID: "p", FleetID: fleets[num%2], Num: num, Name: "i", Status: api.InstanceIdle, Blocks: 2, CreatedAt: time.UnixMicro(1)})
			case 1:
				others++
				_, err := tx.ExecContext(ctx, `UPDATE instance SET unreachable = NOT unreachable, version = version + 1 WHERE id = $1`, id)
				return err
			case 2:
				others++
				_, err := tx.ExecContext(ctx, `UPDATE instance SET fleet_id = CASE fleet_id WHEN 'f0' THEN 'f1' ELSE 'f0' END, version = version + 1 WHERE id = $1`, id)
				return err
			case 3:
				undos++
				err := flip(tx, id, true)
				_, seen := s.InFleets(ctx, tx, fleets...) // what nobody else will ever see
				return errors.Join(err, seen, undone)
			}
			own++
			return errors.Join(flip(tx, id, r.IntN(20) == 0), flip(tx, "i1", false))
		})
		if err != nil && !errors.Is(err, undone) {
			t.Fatal(err)
		}
		if r.IntN(3) == 0 {
			looks++
			look(fmt.Sprint("step ", step))
		}
	}
	if own < 100 || others < 50 || undos < 20 || looks < 100 || q.texts > looks*9/10 {
		t.Errorf("%d writes of its own, %d of others, %d undone, %d looks of which %d read: the test shows little", own, others, undos, looks, q.texts)
	}
	look("before the last")
	before := q.texts
	for n := range 20 {
		if err := db.Write(ctx, func(tx *store.Tx) error { return flip(tx, fmt.Sprint("i", num-n), n == 7) }); err != nil {
			t.Fatal(err)
		}
		look("at the end")
	}
	if q.texts != before {
		t.Errorf("versions were read %d times for 20 writes of its own", q.texts-before)
	}
	for range 20 { // those that share a commit tell of it in any order
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() {
				if err := db.Write(ctx, func(tx *store.Tx) error { return flip(tx, fmt.Sprint("i", num-n), false) }); err != nil {
					t.Error(err)
				}
				if _, err := s.InFleets(ctx, db.Read(), fleets...); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		look("after many at once")
	}
}

// A fleet at which nobody looks is not followed for ever.
func TestWritesThatNobodyLooksAt(t *testing.T) {
	db := storetest.SQLite(t)
	ctx, s := t.Context(), &Service{Config: Config{DB: db}, known: newKnown()}
	stored(t, db, "i")
	for _, writes := range []int{maxWritten, maxWritten + 1} {
		q := &counted{Querier: db.Read(), reading: func() {}}
		if _, err := s.InFleets(ctx, q, "f"); err != nil {
			t.Fatal(err)
		}
		q.texts = 0
		for range writes {
			err := db.Write(ctx, func(tx *store.Tx) error {
				i, err := s.Get(ctx, tx, "i")
				i.Unreachable = !i.Unreachable
				return errors.Join(err, s.update(ctx, tx, &i))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		list, err := s.InFleets(ctx, q, "f")
		if err != nil || len(list["f"]) != 1 {
			t.Errorf("%d instances, %v", len(list["f"]), err)
		}
		if want := writes - maxWritten; q.texts != want {
			t.Errorf("after %d writes versions were read %d times, want %d", writes, q.texts, want)
		}
	}
}

// stored stores an instance of the fleet f.
func stored(t *testing.T, db *store.DB, id string) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		return insert(t.Context(), tx, &Instance{ID: id, ProjectID: "p", FleetID: "f", Num: int(id[0]), Name: id, Status: api.InstanceIdle, CreatedAt: time.UnixMicro(1)})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// counted counts how often the versions of instances are read.
type counted struct {
	store.Querier
	texts   int
	reading func() // called the first time
}

func (c *counted) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if strings.Contains(query, "string_agg") {
		if c.texts++; c.texts == 1 {
			c.reading()
		}
	}
	return c.Querier.QueryContext(ctx, query, args...)
}
