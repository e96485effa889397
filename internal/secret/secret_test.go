package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/crypt"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
	"dstack/internal/user"
)

func box(t *testing.T, names ...string) *crypt.Box {
	t.Helper()
	var keys []crypt.Key
	for _, name := range names {
		sum := bytes.Repeat([]byte(name[:1]), 32)
		keys = append(keys, crypt.Key{Name: name, Secret: sum})
	}
	b, err := crypt.New(keys)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func scope(id string) project.Scope {
	return project.Scope{Project: project.Project{ID: id, Name: id}, User: user.User{ID: "u", Name: "me"}, Role: api.ProjectAdmin}
}

func set(t *testing.T, s *Service, sc project.Scope, name, value string) api.Secret {
	t.Helper()
	v, err := s.Set(t.Context(), sc, api.SetSecretRequest{Name: name, Value: value})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func names(t *testing.T, s *Service, sc project.Scope) []string {
	t.Helper()
	list, err := s.List(t.Context(), sc, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, v := range list {
		if v.Value != nil {
			t.Errorf("the list tells the value of %s", v.Name)
		}
		got = append(got, v.Name)
	}
	return got
}

func TestLife(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := &Service{DB: db, Box: box(t, "a")}
		one, two := scope("one"), scope("two")
		first := set(t, s, one, "B", "1")
		set(t, s, one, "A", "2")
		set(t, s, two, "B", "of another project")
		if again := set(t, s, one, "B", "3"); again.ID != first.ID {
			t.Error("a new value made a new secret")
		}
		if diff := cmp.Diff([]string{"A", "B"}, names(t, s, one)); diff != "" {
			t.Errorf("newest first (-want +got):\n%s", diff)
		}
		values, err := s.Values(ctx, "one")
		if diff := cmp.Diff(map[string]string{"A": "2", "B": "3"}, values); err != nil || diff != "" {
			t.Errorf("Values: %v (-want +got):\n%s", err, diff)
		}
		if v, err := s.Get(ctx, one, api.GetSecretRequest{Name: "B"}); err != nil || *v.Value != "3" {
			t.Errorf("Get(B) = %v, %v", v, err)
		}
		if _, err := s.Get(ctx, one, api.GetSecretRequest{Name: "b"}); !api.IsNotExists(err) {
			t.Errorf("Get(b): %v, want that it does not exist", err)
		}
		_, err = s.Delete(ctx, one, api.DeleteSecretsRequest{SecretsNames: []string{"A", "X", "Y"}})
		if err == nil || err.Error() != "Secrets not found: X, Y" {
			t.Errorf("Delete of unknown ones: %v", err)
		}
		if diff := cmp.Diff([]string{"A", "B"}, names(t, s, one)); diff != "" {
			t.Errorf("after a refused Delete (-want +got):\n%s", diff)
		}
		if _, err := s.Delete(ctx, one, api.DeleteSecretsRequest{SecretsNames: []string{"A", "B"}}); err != nil {
			t.Fatal(err)
		}
		if got := names(t, s, one); len(got) != 0 {
			t.Errorf("after Delete: %v", got)
		}
		if diff := cmp.Diff([]string{"B"}, names(t, s, two)); diff != "" {
			t.Errorf("of the other project (-want +got):\n%s", diff)
		}
	})
}

func TestLimits(t *testing.T) {
	s := &Service{DB: storetest.SQLite(t), Box: box(t)}
	for _, c := range []struct {
		name, value string
		ok          bool
	}{
		{"TOKEN", "", true},
		{"_a1", strings.Repeat("ü", 5000), true},
		{strings.Repeat("n", 200), "v", true},
		{strings.Repeat("n", 201), "v", false},
		{"", "v", false},
		{"a-b", "v", true},
		{"1a", "v", true},
		{"a b", "v", false},
		{"ä", "v", false},
		{"A", strings.Repeat("x", 5001), false},
	} {
		_, err := s.Set(t.Context(), scope("p"), api.SetSecretRequest{Name: c.name, Value: c.value})
		if (err == nil) != c.ok {
			t.Errorf("Set(%.20q, %d bytes): %v, want ok %v", c.name, len(c.value), err, c.ok)
		}
	}
}

func TestTogether(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, sc := &Service{DB: db, Box: box(t, "a")}, scope("p")
		ids := make(chan string, 6)
		var wg sync.WaitGroup
		for i := range cap(ids) {
			wg.Go(func() {
				v, err := s.Set(t.Context(), sc, api.SetSecretRequest{Name: "K", Value: fmt.Sprint(i)})
				if err != nil {
					t.Error(err)
				}
				ids <- v.ID
			})
		}
		wg.Wait()
		close(ids)
		first := <-ids
		for id := range ids {
			if id != first {
				t.Errorf("secrets of one name: %s, %s", first, id)
			}
		}
		deleted := make(chan bool, 6)
		for range cap(deleted) {
			wg.Go(func() {
				_, err := s.Delete(t.Context(), sc, api.DeleteSecretsRequest{SecretsNames: []string{"K"}})
				if err != nil && !api.IsNotExists(err) {
					t.Error(err)
				}
				deleted <- err == nil
			})
		}
		wg.Wait()
		close(deleted)
		n := 0
		for ok := range deleted {
			if ok {
				n++
			}
		}
		if n != 1 {
			t.Errorf("deleted %d times", n)
		}
	})
}

// Values cannot be read from the database, stay readable when a key is put in front, and are
// sealed anew with it when they are set.
func TestAtRest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		sc := scope("p")
		set(t, &Service{DB: db, Box: box(t, "old")}, sc, "K", "hunter2")
		stored := func() string {
			t.Helper()
			var sealed string
			if err := db.Read().QueryRowContext(t.Context(), `SELECT sealed FROM secret`).Scan(&sealed); err != nil {
				t.Fatal(err)
			}
			return sealed
		}
		before := stored()
		for _, form := range []string{"hunter2", base64.StdEncoding.EncodeToString([]byte("hunter2"))} {
			if strings.Contains(before, form) {
				t.Errorf("the row holds the value: %s", before)
			}
		}
		rotated := &Service{DB: db, Box: box(t, "new", "old")}
		if v, err := rotated.Get(t.Context(), sc, api.GetSecretRequest{Name: "K"}); err != nil || *v.Value != "hunter2" {
			t.Errorf("Get with the new key in front = %v, %v", v, err)
		}
		set(t, rotated, sc, "K", "hunter3")
		if after := stored(); !strings.HasPrefix(after, "enc:aes:new:") {
			t.Errorf("sealed as %.20s…, want with the new key", after)
		}
		var log bytes.Buffer
		lost := &Service{DB: db, Box: box(t, "x"), Log: slog.New(slog.NewTextHandler(&log, nil))}
		if _, err := lost.Get(t.Context(), sc, api.GetSecretRequest{Name: "K"}); !errors.Is(err, crypt.ErrSealed) {
			t.Errorf("Get without the key: %v, want ErrSealed", err)
		}
		set(t, lost, sc, "FRESH", "v") // others do not suffer from it
		values, err := lost.Values(t.Context(), "p")
		if diff := cmp.Diff(map[string]string{"FRESH": "v"}, values); err != nil || diff != "" {
			t.Errorf("Values: %v (-want +got):\n%s", err, diff)
		}
		if !strings.Contains(log.String(), "secret=K") {
			t.Errorf("the log does not tell which secret: %s", &log)
		}
		if got := names(t, lost, sc); len(got) != 2 {
			t.Errorf("without the key the list is %v", got)
		}
	})
}

func TestNotInTheFile(t *testing.T) {
	path := storetest.Path(t)
	db := storetest.Open(t, path)
	set(t, &Service{DB: db, Box: box(t, "k")}, scope("p"), "K", "correct-horse-battery")
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{path, path + "-wal"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("correct-horse-battery")) {
			t.Errorf("%s holds the value", file)
		}
	}
}
