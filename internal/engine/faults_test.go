//go:build unix

package engine_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"dstack/internal/engine"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// The environment of a replica that is a process of its own: where its database is, who it is, and whether
// its writes check the fence.
const (
	replicaURL      = "ENGINE_REPLICA_URL"
	replicaName     = "ENGINE_REPLICA_NAME"
	replicaUnfenced = "ENGINE_REPLICA_UNFENCED"
)

const (
	shortLease = 600 * time.Millisecond
	workedOn   = 16 // objects
	faultCount = 20
)

// What replicas do to objects: n counts the writes of an object in the order of their commits.
const faultTables = `
CREATE TABLE worked (id TEXT PRIMARY KEY, shard INTEGER NOT NULL, n BIGINT NOT NULL);
CREATE TABLE written (id TEXT NOT NULL, n BIGINT NOT NULL, epoch BIGINT NOT NULL, owner TEXT NOT NULL, pass BIGINT NOT NULL);
CREATE TABLE refused (id TEXT NOT NULL, epoch BIGINT NOT NULL, owner TEXT NOT NULL);
CREATE TABLE mark (id TEXT NOT NULL, n BIGINT NOT NULL)`

// TestReplicasUnderFaults has two replicas, processes on one database, that are frozen, killed, stopped and
// cut off from the database at random in the middle of passes. No two passes of an object act at the same
// time, and what a stale one writes is refused. Replicas that do not check the fence are found out.
func TestReplicasUnderFaults(t *testing.T) {
	if os.Getenv(replicaURL) != "" {
		runReplica(t)
		return
	}
	t.Run("fenced", func(t *testing.T) {
		w := newFaults(t, false)
		for range faultCount {
			w.fault()
		}
		for _, bad := range w.violations() {
			t.Error(bad)
		}
		if n := w.number(`SELECT count(*) FROM refused`); n == 0 {
			t.Error("no stale write was refused: the faults show nothing")
		}
		w.progress()
		t.Logf("%d writes, %d refused, %d epochs", w.number(`SELECT count(*) FROM written`), w.number(`SELECT count(*) FROM refused`), w.number(`SELECT count(DISTINCT (id, epoch)) FROM written`))
	})
	t.Run("unfenced", func(t *testing.T) {
		w := newFaults(t, true)
		for range 3 * faultCount {
			w.fault()
			if bad := w.violations(); len(bad) > 0 {
				t.Logf("found: %s", bad[0])
				return
			}
		}
		t.Error("replicas without a fence were not found out")
	})
}

// faults are two replicas and what is done to them.
type faults struct {
	t        *testing.T
	db       *store.DB
	url      string
	unfenced bool
	rnd      *rand.Rand
	replicas [2]*replicaProcess
	started  int
}

// replicaProcess is a replica, which ends with its standard input.
type replicaProcess struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.Closer
	output bytes.Buffer // after its end
}

func newFaults(t *testing.T, unfenced bool) *faults {
	w := &faults{t: t, url: storetest.PostgresURL(t), unfenced: unfenced, rnd: rnd(1)}
	w.db = storetest.Open(t, w.url)
	err := w.db.Write(t.Context(), func(tx *store.Tx) error {
		if _, err := tx.ExecContext(t.Context(), faultTables); err != nil {
			return err
		}
		for n := range workedOn {
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO worked VALUES ($1, $2, 0)`, strconv.Itoa(n), engine.Shard(strconv.Itoa(n))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range w.replicas {
		w.start(n)
	}
	t.Cleanup(func() {
		for _, r := range w.replicas {
			r.kill()
			if t.Failed() {
				t.Logf("%s:\n%s", r.name, r.output.Bytes())
			}
		}
	})
	w.progress()
	return w
}

// start starts a replica in place of one that has ended.
func (w *faults) start(n int) {
	w.t.Helper()
	w.started++
	r := &replicaProcess{name: fmt.Sprintf("replica-%d", w.started)}
	u, err := url.Parse(w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", r.name)
	u.RawQuery = q.Encode()
	r.cmd = exec.Command(os.Args[0], "-test.run=^TestReplicasUnderFaults$", "-test.timeout=5m")
	r.cmd.Env = append(os.Environ(), replicaURL+"="+u.String(), replicaName+"="+r.name)
	if w.unfenced {
		r.cmd.Env = append(r.cmd.Env, replicaUnfenced+"=1")
	}
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.replicas[n] = r
}

func (r *replicaProcess) kill() {
	_ = r.cmd.Process.Kill() // it may have ended
	_ = r.cmd.Wait()
}

// fault lets something go wrong, and then some time pass.
func (w *faults) fault() {
	n := w.rnd.IntN(len(w.replicas))
	r := w.replicas[n]
	switch w.rnd.IntN(6) {
	case 0, 1, 2: // half of the times for longer than its lease
		w.signal(r, syscall.SIGSTOP)
		w.pause(2 * shortLease)
		w.signal(r, syscall.SIGCONT)
	case 3:
		r.kill()
		w.start(n)
	case 4:
		_ = r.stdin.Close()
		if err := r.cmd.Wait(); err != nil {
			w.t.Errorf("%s ended with %v:\n%s", r.name, err, r.output.Bytes())
		}
		w.start(n)
	case 5:
		w.number(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1`, r.name)
	}
	w.pause(shortLease)
}

// pause waits for up to a time: the replicas live in real time.
func (w *faults) pause(most time.Duration) { <-time.After(time.Duration(w.rnd.Int64N(int64(most)))) }

func (w *faults) signal(r *replicaProcess, s syscall.Signal) {
	w.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		w.t.Fatalf("signal %v to %s: %v", s, r.name, err)
	}
}

func (w *faults) number(query string, args ...any) (n int) {
	w.t.Helper()
	if err := w.db.Read().QueryRowContext(w.t.Context(), query, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// violations are writes after those of a later owner, of two owners of one epoch, and of two passes of one
// epoch among each other.
func (w *faults) violations() (bad []string) {
	type write struct {
		epoch, pass int64
		owner       string
		ended       map[int64]bool // passes of the epoch after which another one wrote
	}
	last := map[string]write{}
	rows, err := w.db.Read().QueryContext(w.t.Context(), `SELECT id, n, epoch, owner, pass FROM written ORDER BY id, n`)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		var n int64
		var now write
		if err := rows.Scan(&id, &n, &now.epoch, &now.owner, &now.pass); err != nil {
			return err
		}
		was, before := last[id]
		switch {
		case !before || now.epoch > was.epoch:
			now.ended = map[int64]bool{}
		case now.epoch < was.epoch:
			bad = append(bad, fmt.Sprintf("write %d of object %s is of epoch %d (%s), after one of epoch %d (%s)", n, id, now.epoch, now.owner, was.epoch, was.owner))
			return nil
		case now.owner != was.owner:
			bad = append(bad, fmt.Sprintf("writes of object %s are of %s and %s in one epoch", id, was.owner, now.owner))
		default:
			now.ended = was.ended
			if now.pass != was.pass {
				now.ended[was.pass] = true
			}
			if now.ended[now.pass] {
				bad = append(bad, fmt.Sprintf("write %d of object %s is of a pass of %s during which another one wrote", n, id, now.owner))
			}
		}
		last[id] = now
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return bad
}

// progress waits until every object was written once more.
func (w *faults) progress() {
	w.t.Helper()
	if err := w.db.Write(w.t.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(w.t.Context(), `INSERT INTO mark SELECT id, n FROM worked`)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	behind := workedOn
	for deadline := time.Now().Add(30 * time.Second); behind > 0; {
		if time.Now().After(deadline) {
			w.t.Fatalf("%d of %d objects stand still", behind, workedOn)
		}
		<-time.After(20 * time.Millisecond)
		behind = w.number(`SELECT count(*) FROM worked WHERE n <= (SELECT max(n) FROM mark WHERE mark.id = worked.id)`)
	}
}

// runReplica is the process of a replica.
func runReplica(t *testing.T) {
	r := &faultyReplica{db: storetest.Open(t, os.Getenv(replicaURL)), name: os.Getenv(replicaName), unfenced: os.Getenv(replicaUnfenced) != ""}
	e, err := engine.New(engine.Config{DB: r.db, Log: slog.New(slog.NewTextHandler(os.Stdout, nil)), Owner: r.name, Lease: shortLease, Sweep: 2 * time.Second, Drain: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	e.Register(engine.Kind{Name: "x", Live: engine.LiveQuery(`SELECT id FROM worked WHERE shard IN`), Reconcile: r.reconcile})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is to stop, or the test is gone
		stop()
	}()
	if err := e.Run(ctx); err != nil && ctx.Err() == nil { // it may be stopped before it has begun
		t.Fatal(err)
	}
}

// faultyReplica works on objects, as slowly as clouds answer. It notices nothing of its end but by the fence.
type faultyReplica struct {
	db       *store.DB
	name     string
	unfenced bool
	mu       sync.Mutex
	passes   int64
}

func (r *faultyReplica) reconcile(ctx context.Context, it engine.Item) (time.Time, error) {
	ctx = context.WithoutCancel(ctx) // frozen, it has not heard of it
	r.mu.Lock()
	r.passes++
	pass := r.passes
	r.mu.Unlock()
	for range 1 + rand.IntN(3) {
		<-time.After(rand.N(100 * time.Millisecond))
		err := r.db.Write(ctx, func(tx *store.Tx) error { return r.write(ctx, tx, it, pass) })
		if errors.Is(err, engine.ErrFenced) {
			err = errors.Join(err, r.db.Write(ctx, func(tx *store.Tx) error {
				_, err := tx.ExecContext(ctx, `INSERT INTO refused VALUES ($1, $2, $3)`, it.ID, it.Fence.Epoch, r.name)
				return err
			}))
		}
		if err != nil {
			return time.Time{}, err
		}
	}
	return time.Now().Add(rand.N(300 * time.Millisecond)), nil
}

func (r *faultyReplica) write(ctx context.Context, tx *store.Tx, it engine.Item, pass int64) error {
	if !r.unfenced {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
	}
	var n int64
	if err := tx.QueryRowContext(ctx, `UPDATE worked SET n = n + 1 WHERE id = $1 RETURNING n`, it.ID).Scan(&n); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO written VALUES ($1, $2, $3, $4, $5)`, it.ID, n, it.Fence.Epoch, r.name, pass)
	return err
}
