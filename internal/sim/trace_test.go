package sim

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"dstack/internal/store"
)

// trace is what happened in a world, for people. What the server did is read from its own
// audit log; here is what was done to it.
type trace struct {
	began   time.Time
	verbose bool
	mu      sync.Mutex
	lines   []line
}

type line struct {
	at   time.Time
	text string
}

func (t *trace) add(kind, object string, what ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line{time.Now(), kind + " " + object + ": " + strings.Join(what, " ")})
}

func (t *trace) log(r slog.Record, attrs []slog.Attr) {
	t.add("log", r.Level.String(), r.Message, attrsText(r, attrs))
}

func attrsText(r slog.Record, attrs []slog.Attr) string {
	var b strings.Builder
	for _, a := range attrs {
		fmt.Fprintf(&b, "%s=%v ", a.Key, a.Value)
	}
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, "%s=%v ", a.Key, a.Value)
		return true
	})
	return strings.TrimSpace(b.String())
}

const auditLog = `
SELECT e.recorded_at, t.type, t.name, t.target_id, e.message FROM event e JOIN event_target t ON t.event_id = e.id
ORDER BY e.recorded_at, t.type, t.name, e.message`

// text is the whole story: virtual time, object, what became of it.
func (t *trace) text(db *store.DB) string {
	t.mu.Lock()
	all := slices.Clone(t.lines)
	t.mu.Unlock()
	rows, err := db.Read().QueryContext(context.Background(), auditLog)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var at int64
		var kind, name, id, msg string
		err := rows.Scan(&at, &kind, &name, &id, &msg)
		all = append(all, line{store.Time(at), fmt.Sprintf("%s %s %.8s: %s", kind, name, id, strings.ReplaceAll(msg, "\n", " "))})
		return err
	})
	if err != nil {
		all = append(all, line{time.Now(), "audit log: " + err.Error()})
	}
	// What happened at one moment has no order that a seed decides.
	slices.SortFunc(all, func(a, b line) int {
		return cmp.Or(a.at.Truncate(time.Microsecond).Compare(b.at.Truncate(time.Microsecond)), strings.Compare(a.text, b.text))
	})
	var b strings.Builder
	for _, l := range all {
		fmt.Fprintf(&b, "%10.3fs  %s\n", l.at.Sub(t.began).Seconds(), l.text)
	}
	return b.String()
}
