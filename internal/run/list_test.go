package run

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// listed is a run as these tests know it.
type listed struct {
	id, project, repo, user string
	at                      int64 // microseconds, few, so that many runs have the same
	active                  bool
}

// some fills a database with runs of some projects, of which one has none and one many.
func some(t *testing.T, db *store.DB) []listed {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var all []listed
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		for n := range 6 {
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO project (id, name, owner_id, public_key, private_sealed, created_at) VALUES ($1, $1, 'u', '', '', 0)`, fmt.Sprint("p", n)); err != nil {
				return err
			}
		}
		for n := range 300 {
			l := listed{fmt.Sprintf("r%03d", r.IntN(1000)*1000+n), fmt.Sprint("p", max(0, r.IntN(9)-4)), fmt.Sprint("repo", n%3), fmt.Sprint("u", n%2), 1_000_000 * int64(1+r.IntN(40)), r.IntN(4) == 0}
			status := "done"
			if l.active {
				status = "running"
			}
			_, err := tx.ExecContext(t.Context(), `
INSERT INTO run (id, project_id, user_id, name, status, repo_id, submitted_at, shard, data) VALUES ($1, $2, $3, $1, $4, $5, $6, 0, $7)`,
				l.id, l.project, l.user, status, l.repo, l.at, `{"spec": {"configuration": {"type": "task", "commands": ["true"]}}}`)
			if err != nil {
				return err
			}
			all = append(all, l)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// pages are the ids of the pages that p describes, one after the other, each with its end.
func pages(t *testing.T, db *store.DB, c *rows, p page, everything bool) []string {
	t.Helper()
	var ids []string
	for range 1000 {
		tail, args := p.query(everything)
		runs, err := c.list(t.Context(), db.Read(), tail, args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range runs {
			ids = append(ids, r.ID)
		}
		if len(runs) < p.limit {
			return ids
		}
		last := runs[len(runs)-1]
		p.after, p.afterID = last.SubmittedAt, last.ID
	}
	t.Fatal("there is no end")
	return nil
}

// Whatever is asked for, the pages are the runs that belong to it, in their order.
func TestPages(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		all, c := some(t, db), newRows()
		for _, projects := range [][]string{{"p0"}, {"p5"}, {"p0", "p5"}, {"p0", "p1", "p2", "p3", "p4", "p5"}} {
			for _, p := range []page{{}, {active: true}, {user: "u1"}, {repo: "repo2", active: true}, {repo: "repo0", user: "u0"}} {
				for _, ascending := range []bool{false, true} {
					for _, limit := range []int{9, 100} {
						p.projects, p.ascending, p.limit = projects, ascending, limit
						var want []string
						for _, l := range sorted(all, ascending) {
							if slices.Contains(projects, l.project) && (p.repo == "" || p.repo == l.repo) && (p.user == "" || p.user == l.user) && (!p.active || l.active) {
								want = append(want, l.id)
							}
						}
						for _, everything := range []bool{false, true} {
							if diff := gocmp.Diff(want, pages(t, db, c, p, everything)); diff != "" {
								t.Errorf("%+v, everything %v (-want +got):\n%s", p, everything, diff)
							}
						}
					}
				}
			}
		}
	})
}

func sorted(all []listed, ascending bool) []listed {
	list := slices.Clone(all)
	slices.SortFunc(list, func(a, b listed) int { return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(a.id, b.id)) })
	if ascending {
		slices.Reverse(list)
	}
	return list
}

// No page goes through all runs: each is read from an index in the order of the list.
func TestPagesUseAnIndex(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if db.Engine() != store.SQLite {
			return // Postgres decides by how much there is
		}
		for name, tt := range map[string]struct {
			page       page
			everything bool
			want       string
		}{
			"a project":             {page{projects: []string{"a"}}, false, "run_page"},
			"active in a project":   {page{projects: []string{"a"}, active: true}, false, "run_active"},
			"all projects":          {page{projects: []string{"a", "b"}}, true, "run_order"},
			"active in all":         {page{projects: []string{"a", "b"}, active: true}, true, "run_active_order"},
			"some projects":         {page{projects: []string{"a", "b"}}, false, "run_page"},
			"the next page of some": {page{projects: []string{"a", "b"}, after: time.UnixMicro(5), afterID: "x"}, false, "run_page"},
			"the next page of all":  {page{projects: []string{"a", "b"}, after: time.UnixMicro(5), afterID: "x"}, true, "run_order"},
		} {
			tt.page.limit = 10
			tail, args := tt.page.query(tt.everything)
			var plan []string
			rows, err := db.Read().QueryContext(t.Context(), "EXPLAIN QUERY PLAN SELECT id FROM run "+tail, args...)
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				var id, parent, unused int
				var text string
				if err := rows.Scan(&id, &parent, &unused, &text); err != nil {
					t.Fatal(err)
				}
				plan = append(plan, text)
			}
			if err := rows.Close(); err != nil {
				t.Fatal(err)
			}
			text := strings.Join(plan, "\n")
			if !strings.Contains(text, "INDEX "+tt.want+" ") && !strings.HasSuffix(text, "INDEX "+tt.want) || strings.Contains(text, "SCAN run\n") || len(tt.page.projects) == 1 && strings.Contains(text, "TEMP B-TREE") {
				t.Errorf("%s does not use %s alone:\n%s", name, tt.want, text)
			}
		}
	})
}
