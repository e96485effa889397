package repo

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestDamaged edits rows by hand: the list shows all repos, and the next use of a spoiled one mends it.
func TestDamaged(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, sc := service(t, db), scope("p", "u")
		creds := &api.RepoCreds{CloneURL: "https://example.com/code.git"}
		for _, edit := range []string{
			`UPDATE repo SET info = '{bad'`, `UPDATE repo SET info = '[]'`, `UPDATE repo SET info = '{}'`, `UPDATE repo SET info = '{"repo_type": "bogus"}'`,
			`UPDATE repo_creds SET sealed = 'enc:identity:noname:{bad'`, `UPDATE repo_creds SET sealed = 'zzz'`,
		} {
			for _, id := range []string{"code", "other"} {
				initialize(t, s, sc, remote(id, creds))
			}
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.ExecContext(t.Context(), edit+` WHERE repo_id = 'code'`)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			list, err := s.List(t.Context(), sc, struct{}{})
			if err != nil || len(list) != 2 || list[1].RepoInfo.RepoType != "remote" {
				t.Errorf("%s: listed as %+v, %v", edit, list, err)
			}
			if _, err := s.Get(t.Context(), sc, api.GetRepoRequest{RepoID: "code"}); err != nil {
				t.Errorf("%s: %v", edit, err)
			}
			initialize(t, s, sc, remote("code", creds))
			got, err := s.Get(t.Context(), sc, api.GetRepoRequest{RepoID: "code", IncludeCreds: true})
			want := api.RepoHeadWithCreds{RepoHead: api.RepoHead{RepoID: "code", RepoInfo: remote("code", nil).RepoInfo}, RepoCreds: creds}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%s: after the next use (-want +got):\n%s%v", edit, diff, err)
			}
		}
	})
}
