package repo

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/blobstore"
	"dstack/internal/crypt"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
	"dstack/internal/user"
)

const limit = 1 << 20

func service(t *testing.T, db *store.DB) *Service {
	t.Helper()
	box, err := crypt.New([]crypt.Key{{Name: "k", Secret: bytes.Repeat([]byte("k"), 32)}})
	if err != nil {
		t.Fatal(err)
	}
	return &Service{DB: db, Box: box, Blobs: blobstore.NewDB(db, limit)}
}

func scope(projectID, userID string) project.Scope {
	return project.Scope{Project: project.Project{ID: projectID}, User: user.User{ID: userID}}
}

func text(s string) *string { return &s }

func remote(id string, creds *api.RepoCreds) api.InitRepoRequest {
	return api.InitRepoRequest{RepoID: id, RepoInfo: api.RepoInfo{RepoType: "remote", RepoName: text("name")}, RepoCreds: creds}
}

func initialize(t *testing.T, s *Service, sc project.Scope, r api.InitRepoRequest) {
	t.Helper()
	if _, err := s.Init(t.Context(), sc, r); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, s *Service, sum string) string {
	t.Helper()
	r, err := s.Blobs.Open(t.Context(), sum)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Credentials belong to one user; those that are not sent again are removed.
func TestCreds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := service(t, db)
		alice, bob := scope("p", "alice"), scope("p", "bob")
		creds := &api.RepoCreds{CloneURL: "https://example.com/r.git", OAuthToken: text("hunter2")}
		initialize(t, s, alice, remote("r", creds))
		get := func(sc project.Scope, with bool) *api.RepoCreds {
			t.Helper()
			v, err := s.Get(ctx, sc, api.GetRepoRequest{RepoID: "r", IncludeCreds: with})
			if err != nil {
				t.Fatal(err)
			}
			return v.RepoCreds
		}
		if diff := cmp.Diff(creds, get(alice, true)); diff != "" {
			t.Errorf("alice's credentials (-want +got):\n%s", diff)
		}
		if got := get(alice, false); got != nil {
			t.Errorf("credentials that were not asked for: %+v", got)
		}
		if got := get(bob, true); got != nil {
			t.Errorf("bob sees %+v", got)
		}
		var sealed string
		if err := db.Read().QueryRowContext(ctx, `SELECT sealed FROM repo_creds`).Scan(&sealed); err != nil || strings.Contains(sealed, "hunter2") {
			t.Errorf("stored as %s, %v", sealed, err)
		}
		initialize(t, s, bob, remote("r", nil))
		if got := get(alice, true); got == nil {
			t.Error("bob's init without credentials removed alice's")
		}
		initialize(t, s, alice, remote("r", nil))
		if got := get(alice, true); got != nil {
			t.Errorf("after an init without: %+v", got)
		}
		if _, err := s.Get(ctx, scope("other", "alice"), api.GetRepoRequest{RepoID: "r"}); !api.IsNotExists(err) {
			t.Errorf("from another project: %v", err)
		}
	})
}

func TestInitTogether(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := service(t, db)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if _, err := s.Init(t.Context(), scope("p", "u"), remote("r", &api.RepoCreds{CloneURL: "u"})); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if list, err := s.List(t.Context(), scope("p", "u"), struct{}{}); err != nil || len(list) != 1 {
			t.Errorf("%d repos, %v", len(list), err)
		}
	})
}

func TestUploads(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s, sc := service(t, db), scope("p", "u")
		initialize(t, s, sc, remote("r", nil))
		for _, c := range []struct{ hash, body string }{{"h1", "one"}, {"h2", "two"}, {"h1", "one again"}} {
			if err := s.UploadCode(ctx, sc, "r", c.hash, strings.NewReader(c.body)); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := s.CodeBlob(ctx, "p", "r", "h1")
		if err != nil || content(t, s, sum) != "one" {
			t.Errorf("code h1 = %q, %v", content(t, s, sum), err)
		}
		if _, err := s.CodeBlob(ctx, "other", "r", "h1"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("code of another project: %v", err)
		}
		first, err := s.UploadArchive(ctx, sc.User, "a", archive(t, "a.txt"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.UploadArchive(ctx, sc.User, "a", archive(t, "a.txt"))
		if err != nil || again.ID != first.ID {
			t.Errorf("the same archive again = %v, %v, want %s", again, err, first.ID)
		}
		if got, err := s.ArchiveByHash(ctx, sc.User, api.GetArchiveRequest{Hash: "a"}); err != nil || got.ID != first.ID {
			t.Errorf("ArchiveByHash = %v, %v", got, err)
		}
		if _, err := s.ArchiveByHash(ctx, user.User{ID: "other"}, api.GetArchiveRequest{Hash: "a"}); !api.IsNotExists(err) {
			t.Errorf("another's archive: %v", err)
		}
	})
}

// shaky is a store that can be out of order, and notes what is put.
type shaky struct {
	blobstore.Store
	err  error
	puts int
}

func (s *shaky) Put(ctx context.Context, r io.Reader) (blobstore.Blob, error) {
	s.puts++
	if s.err != nil {
		return blobstore.Blob{}, s.err
	}
	return s.Store.Put(ctx, r)
}

func (s *shaky) Stat(ctx context.Context, sum string) (blobstore.Blob, error) {
	if s.err != nil {
		return blobstore.Blob{}, s.err
	}
	return s.Store.Stat(ctx, sum)
}

// What is stored is not stored again, also while the store is out of order; what it lost is.
func TestUploadedBefore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, sc := service(t, db), scope("p", "u")
		blobs := &shaky{Store: s.Blobs}
		s.Blobs = blobs
		initialize(t, s, sc, remote("r", nil))
		tarball, err := io.ReadAll(archive(t, "a.txt"))
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%x", sha256.Sum256(tarball))
		both := func(name string, body []byte) [2]error {
			code := s.UploadCode(t.Context(), sc, "r", name, bytes.NewReader(body))
			_, err := s.UploadArchive(t.Context(), sc.User, name, bytes.NewReader(body))
			return [2]error{code, err}
		}
		down := &blobstore.UnavailableError{Err: errors.New("no route")}
		for _, c := range []struct {
			what, name string
			body       []byte
			err        error // of the store
			lost       bool
			puts       int
			want       string // the error
		}{
			{what: "new, out of order", name: name, body: tarball, err: down, puts: 2, want: down.Error()},
			{what: "new", name: name, body: tarball, puts: 2},
			{what: "again", name: name, body: tarball},
			{what: "again, out of order", name: name, body: tarball, err: down},
			{what: "other content", name: name, body: []byte("x"), want: "the name says"},
			{what: "lost", name: name, body: tarball, lost: true, puts: 1}, // by the first
		} {
			blobs.err, blobs.puts = c.err, 0
			if c.lost {
				if err := s.Blobs.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			for _, err := range both(c.name, c.body) {
				if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v, want %q", c.what, err, c.want)
				}
			}
			if blobs.puts != c.puts {
				t.Errorf("%s: put %d times, want %d", c.what, blobs.puts, c.puts)
			}
		}
		if content(t, s, name) != string(tarball) {
			t.Error("other content came back")
		}
	})
}

func TestRefusedUploads(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s, sc := service(t, db), scope("p", "u")
		initialize(t, s, sc, remote("r", nil))
		broken := io.MultiReader(strings.NewReader("abc"), failing{})
		for name, c := range map[string]struct {
			repo, hash string
			body       io.Reader
			want       string
		}{
			"an unknown repo":         {"nosuch", "h", strings.NewReader("x"), "Repo nosuch does not exist"},
			"no name":                 {"r", "", strings.NewReader("x"), "must be named by its hash"},
			"a long name":             {"r", strings.Repeat("a", 129), strings.NewReader("x"), "must be named by its hash"},
			"a NUL in the name":       {"r", "a\x00b", strings.NewReader("x"), "must be named by its hash"},
			"broken UTF-8":            {"r", "a\xff", strings.NewReader("x"), "must be named by its hash"},
			"too large":               {"r", "h", bytes.NewReader(make([]byte, limit+1)), "more than 1048576 bytes"},
			"a connection that broke": {"r", "h", broken, "reset"},
		} {
			if err := s.UploadCode(ctx, sc, c.repo, c.hash, c.body); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		}
		for _, table := range []string{"code", "blob"} {
			var n int
			if err := db.Read().QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil || n != 0 {
				t.Errorf("%d rows in %s, %v", n, table, err)
			}
		}
	})
}

// archive is a tar with empty files of these names.
func archive(t *testing.T, names ...string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// Nobody puts other content under a name that runs rely on, nor archives that lead out of
// their place.
func TestHostileUploads(t *testing.T) {
	s, sc := service(t, storetest.SQLite(t)), scope("p", "u")
	initialize(t, s, sc, remote("r", nil))
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("good")))
	if err := s.UploadCode(t.Context(), sc, "r", sum, strings.NewReader("evil")); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("other content under a hash: %v", err)
	}
	if err := s.UploadCode(t.Context(), sc, "r", sum, strings.NewReader("good")); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		body io.Reader
		want string
	}{
		"above":      {archive(t, "a", "../../etc/x"), `entry "../../etc/x" leads out`},
		"absolute":   {archive(t, "/etc/passwd"), `entry "/etc/passwd" leads out`},
		"no archive": {strings.NewReader(strings.Repeat("junk", 1000)), "not a tar archive"},
	} {
		if _, err := s.UploadArchive(t.Context(), sc.User, "a", c.body); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if _, err := s.ArchiveByHash(t.Context(), sc.User, api.GetArchiveRequest{Hash: "a"}); !api.IsNotExists(err) {
		t.Errorf("a refused archive is there: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// A name with a path in it is a key like any other: no file is made of it.
func TestPathAsName(t *testing.T) {
	dir := t.TempDir()
	s := service(t, storetest.SQLite(t))
	s.Blobs = blobstore.NewFile(dir+"/blobs", limit)
	if _, err := s.UploadArchive(t.Context(), user.User{ID: "u"}, "../../evil", archive(t, "a.txt")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "blobs" {
		t.Errorf("beside the store: %v, %v", entries, err)
	}
}

func TestDeleteAndExpire(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s, sc := service(t, db), scope("p", "u")
		for _, id := range []string{"gone", "kept"} {
			initialize(t, s, sc, remote(id, &api.RepoCreds{CloneURL: "u"}))
			if err := s.UploadCode(ctx, sc, id, "h", strings.NewReader("code of "+id)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.UploadArchive(ctx, sc.User, "a", archive(t, "a.txt")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Delete(ctx, sc, api.DeleteReposRequest{ReposIDs: []string{"gone", "nosuch"}}); err != nil {
			t.Fatal(err)
		}
		list, err := s.List(ctx, sc, struct{}{})
		if err != nil || len(list) != 1 || list[0].RepoID != "kept" {
			t.Errorf("List = %v, %v", list, err)
		}
		count := func() (n int) {
			t.Helper()
			if err := db.Read().QueryRowContext(ctx, `SELECT count(*) FROM blob`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		for _, c := range []struct {
			before time.Time
			want   int
		}{{time.Now().Add(-time.Hour), 3}, {time.Now().Add(time.Hour), 2}} {
			if err := s.Expire(ctx, c.before); err != nil {
				t.Fatal(err)
			}
			if n := count(); n != c.want {
				t.Errorf("%d blobs are left, want %d", n, c.want)
			}
		}
		sum, err := s.CodeBlob(ctx, "p", "kept", "h")
		if err != nil || content(t, s, sum) != "code of kept" {
			t.Errorf("the kept code: %v", err)
		}
	})
}

// A run's repo is made when it is virtual, and must exist otherwise.
func TestEnsure(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := service(t, db)
		initialize(t, s, scope("p", "u"), remote("known", nil))
		for _, c := range []struct {
			id   string
			data *api.RepoData
			ok   bool
		}{
			{"none", nil, true},
			{"v", &api.RepoData{RepoType: "virtual"}, true},
			{"known", &api.RepoData{RepoType: "remote"}, true},
			{"unknown", &api.RepoData{RepoType: "remote"}, false},
		} {
			err := db.Write(t.Context(), func(tx *store.Tx) error { return s.Ensure(t.Context(), tx, "p", c.id, c.data) })
			if (err == nil) != c.ok {
				t.Errorf("Ensure(%s): %v, want ok %v", c.id, err, c.ok)
			}
		}
	})
}
