// Package repo owns the code of runs: repositories of a project with their users'
// credentials, uploaded diffs, and archives of files.
package repo

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/blobstore"
	"dstack/internal/crypt"
	"dstack/internal/event"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/user"
)

// Service stores code. All fields are required.
type Service struct {
	DB    *store.DB
	Box   *crypt.Box
	Blobs blobstore.Store
}

// Init creates or updates a repo and the caller's credentials.
func (s *Service) Init(ctx context.Context, sc project.Scope, r api.InitRepoRequest) (*struct{}, error) {
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := s.note(ctx, tx, sc, r); err != nil {
			return err
		}
		if err := ensure(ctx, tx, sc.Project.ID, r.RepoID, r.RepoInfo); err != nil {
			return err
		}
		if r.RepoCreds == nil {
			_, err := tx.ExecContext(ctx, `DELETE FROM repo_creds WHERE project_id = $1 AND repo_id = $2 AND user_id = $3`, sc.Project.ID, r.RepoID, sc.User.ID)
			return err
		}
		data, err := json.Marshal(r.RepoCreds)
		if err != nil {
			return err
		}
		sealed, err := s.Box.Seal(string(data))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
INSERT INTO repo_creds (project_id, repo_id, user_id, sealed) VALUES ($1, $2, $3, $4)
ON CONFLICT (project_id, repo_id, user_id) DO UPDATE SET sealed = excluded.sealed`, sc.Project.ID, r.RepoID, sc.User.ID, sealed)
		return err
	})
}

// note records what a request is going to change. Clients send it before each run, mostly with
// what is there.
func (s *Service) note(ctx context.Context, tx *store.Tx, sc project.Scope, r api.InitRepoRequest) error {
	var info api.RepoInfo
	err := despiteDamage(&info, tx.QueryRowContext(ctx, `SELECT info FROM repo WHERE project_id = $1 AND repo_id = $2`, sc.Project.ID, r.RepoID).Scan(store.JSON(&info)))
	if errors.Is(err, sql.ErrNoRows) {
		return event.Record(ctx, tx, sc.Event("Repo "+r.RepoID+" created"))
	}
	if err != nil {
		return fmt.Errorf("read a repo: %w", err)
	}
	creds, err := s.creds(ctx, tx, sc.Project.ID, r.RepoID, sc.User.ID)
	var fields []string
	if !reflect.DeepEqual(info, r.RepoInfo) {
		fields = append(fields, "info")
	}
	if err != nil || !reflect.DeepEqual(creds, r.RepoCreds) { // what cannot be read is replaced
		fields = append(fields, "creds")
	}
	if len(fields) == 0 {
		return nil
	}
	return event.Record(ctx, tx, sc.Event("Repo "+r.RepoID+" updated. Updated fields: "+event.Fields(fields)))
}

func ensure(ctx context.Context, tx *store.Tx, projectID, repoID string, info api.RepoInfo) error {
	_, err := tx.ExecContext(ctx, `
INSERT INTO repo (project_id, repo_id, info) VALUES ($1, $2, $3)
ON CONFLICT (project_id, repo_id) DO UPDATE SET info = excluded.info`, projectID, repoID, store.JSON(&info))
	if err != nil {
		return fmt.Errorf("store repo %s: %w", repoID, err)
	}
	return nil
}

// Ensure makes sure that a run's repo exists; virtual ones are made when they are used.
func (s *Service) Ensure(ctx context.Context, tx *store.Tx, projectID, repoID string, d *api.RepoData) error {
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM repo WHERE project_id = $1 AND repo_id = $2`, projectID, repoID).Scan(&n); err != nil {
		return fmt.Errorf("look for repo %s: %w", repoID, err)
	}
	switch {
	case n > 0:
		return nil
	case d == nil || d.RepoType == "virtual":
		return ensure(ctx, tx, projectID, repoID, api.RepoInfo{RepoType: "virtual"})
	}
	return api.BadRequest(api.CodeRepoDoesNotExist, "Repo %s does not exist", repoID)
}

// List returns the project's repos.
func (s *Service) List(ctx context.Context, sc project.Scope, _ struct{}) ([]api.RepoHead, error) {
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT repo_id, info FROM repo WHERE project_id = $1 ORDER BY repo_id`, sc.Project.ID)
	if err != nil {
		return nil, fmt.Errorf("list repos: %w", err)
	}
	defer rows.Close()
	list := []api.RepoHead{}
	for rows.Next() {
		var h api.RepoHead
		if err := despiteDamage(&h.RepoInfo, rows.Scan(&h.RepoID, store.JSON(&h.RepoInfo))); err != nil {
			return nil, fmt.Errorf("read a repo: %w", err)
		}
		list = append(list, h)
	}
	return list, rows.Err()
}

// despiteDamage takes the error of reading what is known of a repo. Of one that makes no sense nothing is, as of a
// virtual one: the next run that uses the repo stores it again.
func despiteDamage(info *api.RepoInfo, err error) error {
	_, damaged := errors.AsType[*store.Damage](err)
	if damaged || err == nil && !slices.Contains([]string{"remote", "local", "virtual"}, info.RepoType) {
		*info = api.RepoInfo{RepoType: "virtual"}
		return nil
	}
	return err
}

// Get returns one repo, with the caller's credentials when asked for.
func (s *Service) Get(ctx context.Context, sc project.Scope, r api.GetRepoRequest) (api.RepoHeadWithCreds, error) {
	v := api.RepoHeadWithCreds{RepoHead: api.RepoHead{RepoID: r.RepoID}}
	err := despiteDamage(&v.RepoInfo, s.DB.Read().QueryRowContext(ctx, `SELECT info FROM repo WHERE project_id = $1 AND repo_id = $2`, sc.Project.ID, r.RepoID).Scan(store.JSON(&v.RepoInfo)))
	if errors.Is(err, sql.ErrNoRows) {
		return v, api.NotExists("")
	}
	if err != nil {
		return v, fmt.Errorf("read a repo: %w", err)
	}
	if r.IncludeCreds {
		v.RepoCreds, err = s.Creds(ctx, sc.Project.ID, r.RepoID, sc.User.ID)
	}
	return v, err
}

// Creds are a user's credentials for a repo, nil when there are none.
func (s *Service) Creds(ctx context.Context, projectID, repoID, userID string) (*api.RepoCreds, error) {
	return s.creds(ctx, s.DB.Read(), projectID, repoID, userID)
}

func (s *Service) creds(ctx context.Context, q store.Querier, projectID, repoID, userID string) (*api.RepoCreds, error) {
	var sealed string
	err := q.QueryRowContext(ctx, `SELECT sealed FROM repo_creds WHERE project_id = $1 AND repo_id = $2 AND user_id = $3`, projectID, repoID, userID).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the credentials of repo %s: %w", repoID, err)
	}
	plain, err := s.Box.Open(sealed)
	if err != nil {
		return nil, fmt.Errorf("credentials of repo %s: %w", repoID, err)
	}
	var c api.RepoCreds
	if json.Unmarshal([]byte(plain), &c) != nil { // spoiled: who needs them is told to give them again
		return nil, nil
	}
	return &c, nil
}

// Delete removes repos; unknown ones are ignored.
func (s *Service) Delete(ctx context.Context, sc project.Scope, r api.DeleteReposRequest) (*struct{}, error) {
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, id := range r.ReposIDs {
			err := store.Guarded(tx.ExecContext(ctx, `DELETE FROM repo WHERE project_id = $1 AND repo_id = $2`, sc.Project.ID, id))
			if err == nil {
				err = event.Record(ctx, tx, sc.Event("Repo "+id+" deleted"))
			}
			if err != nil && !errors.Is(err, store.ErrConflict) {
				return fmt.Errorf("delete repo %s: %w", id, err)
			}
			for _, table := range []string{"repo_creds", "code"} {
				if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE project_id = $1 AND repo_id = $2`, sc.Project.ID, id); err != nil {
					return fmt.Errorf("delete repo %s: %w", id, err)
				}
			}
		}
		return nil
	})
}

// checkHash refuses names of uploads that cannot be hashes. Clients name an upload by the
// SHA-256 of its content; what else they choose is their business, as long as it is short and
// plain: it is only ever a key.
func checkHash(hash string) error {
	if hash == "" || len(hash) > 128 || strings.ContainsFunc(hash, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return api.Invalid("The uploaded file must be named by its hash, in at most 128 printable characters")
	}
	return nil
}

// keptTimeout bounds the question whether content is still there.
const keptTimeout = 5 * time.Second

// kept says whether content that is on record need not be stored again: it is there, or its store
// does not say, and then it could not be stored either.
func (s *Service) kept(ctx context.Context, sum string) bool {
	ctx, cancel := context.WithTimeout(ctx, keptTimeout)
	defer cancel()
	_, err := s.Blobs.Stat(ctx, sum)
	return !errors.Is(err, blobstore.ErrNotFound)
}

// checkSame reads an upload that is stored already.
func checkSame(hash string, r io.Reader) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return err
	}
	return checkContent(hash, hex.EncodeToString(sum.Sum(nil)))
}

// UploadCode stores a diff or an archive under the name that the client gave.
func (s *Service) UploadCode(ctx context.Context, sc project.Scope, repoID, hash string, r io.Reader) error {
	if err := checkHash(hash); err != nil {
		return err
	}
	var n int
	if err := s.DB.Read().QueryRowContext(ctx, `SELECT count(*) FROM repo WHERE project_id = $1 AND repo_id = $2`, sc.Project.ID, repoID).Scan(&n); err != nil {
		return fmt.Errorf("look for repo %s: %w", repoID, err)
	}
	if n == 0 {
		return api.BadRequest(api.CodeRepoDoesNotExist, "Repo %s does not exist", repoID)
	}
	known, err := s.CodeBlob(ctx, sc.Project.ID, repoID, hash)
	if err == nil && s.kept(ctx, known) {
		return checkSame(hash, r)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	blob, err := s.Blobs.Put(ctx, r)
	if err != nil {
		return err
	}
	if err := checkContent(hash, blob.SHA256); err != nil {
		return err
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error { // what is there stays: somebody's run may be made of it
		_, err := tx.ExecContext(ctx, `
INSERT INTO code (project_id, repo_id, hash, blob) VALUES ($1, $2, $3, $4)
ON CONFLICT (project_id, repo_id, hash) DO NOTHING`, sc.Project.ID, repoID, hash, blob.SHA256)
		return err
	})
}

// CodeBlob is the content hash of uploaded code.
func (s *Service) CodeBlob(ctx context.Context, projectID, repoID, hash string) (string, error) {
	return s.one(ctx, `SELECT blob FROM code WHERE project_id = $1 AND repo_id = $2 AND hash = $3`, projectID, repoID, hash)
}

// ArchiveBlob is the content hash of an archive.
func (s *Service) ArchiveBlob(ctx context.Context, id string) (string, error) {
	return s.one(ctx, `SELECT blob FROM archive WHERE id = $1`, id)
}

func (s *Service) one(ctx context.Context, text string, args ...any) (string, error) {
	var v string
	err := s.DB.Read().QueryRowContext(ctx, text, args...).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("it was not uploaded: %w", store.ErrNotFound)
	}
	return v, err
}

// ArchiveByHash finds the caller's archive.
func (s *Service) ArchiveByHash(ctx context.Context, u user.User, r api.GetArchiveRequest) (api.FileArchive, error) {
	a := api.FileArchive{Hash: r.Hash}
	err := s.DB.Read().QueryRowContext(ctx, `SELECT id FROM archive WHERE user_id = $1 AND hash = $2`, u.ID, r.Hash).Scan(&a.ID)
	if errors.Is(err, sql.ErrNoRows) {
		return a, api.NotExists("")
	}
	if err != nil {
		return a, fmt.Errorf("look for an archive: %w", err)
	}
	return a, nil
}

// UploadArchive stores an archive; the same one again is the record that exists.
func (s *Service) UploadArchive(ctx context.Context, u user.User, hash string, r io.Reader) (api.FileArchive, error) {
	if err := checkHash(hash); err != nil {
		return api.FileArchive{}, err
	}
	a, err := s.ArchiveByHash(ctx, u, api.GetArchiveRequest{Hash: hash})
	var unknown *api.Error
	if err != nil && !errors.As(err, &unknown) {
		return a, err
	}
	if err == nil {
		known, err := s.ArchiveBlob(ctx, a.ID)
		if err != nil {
			return a, err
		}
		if s.kept(ctx, known) {
			return a, checkSame(hash, r)
		}
	}
	blob, err := s.Blobs.Put(ctx, r)
	if err != nil {
		return api.FileArchive{}, err
	}
	if err := checkContent(hash, blob.SHA256); err != nil {
		return api.FileArchive{}, err
	}
	if err := s.checkStored(ctx, blob.SHA256); err != nil {
		return api.FileArchive{}, err
	}
	a = api.FileArchive{ID: uuid.NewString(), Hash: hash}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		return tx.QueryRowContext(ctx, `
INSERT INTO archive (id, user_id, hash, blob) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, hash) DO UPDATE SET hash = excluded.hash RETURNING id`, a.ID, u.ID, hash, blob.SHA256).Scan(&a.ID)
	})
	if err != nil {
		return api.FileArchive{}, fmt.Errorf("store an archive: %w", err)
	}
	return a, nil
}

// checkStored reads a stored archive.
func (s *Service) checkStored(ctx context.Context, sum string) error {
	f, err := s.Blobs.Open(ctx, sum)
	if err != nil {
		return fmt.Errorf("read an archive: %w", err)
	}
	defer f.Close()
	return checkArchive(f)
}

// Expire removes the uploads from before t that nothing refers to any more, such as code of
// deleted repos.
func (s *Service) Expire(ctx context.Context, t time.Time) error {
	used := map[string]bool{}
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT blob FROM code UNION SELECT blob FROM archive`)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var sum string
		if err := rows.Scan(&sum); err != nil {
			return err
		}
		used[sum] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the uploads in use: %w", err)
	}
	_, err = s.Blobs.Expire(ctx, t, func(sum string) bool { return used[sum] })
	return err
}
