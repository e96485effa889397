package store

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgresConns bounds the connections of one replica that says nothing else; Postgres allows 100 by default.
const postgresConns = 20

// connectTimeout is for one address of the server, unless the URL says otherwise.
const connectTimeout = 10 * time.Second

// silence is how long a database may be unreachable before its connections break: without a
// bound, what waits for an answer would wait for as long as the kernel tries, which is a
// quarter of an hour, also when the network is back long before.
const silence = 15 * time.Second

// dialer breaks silent connections, busy ones by a timeout and idle ones by probes.
func dialer(timeout time.Duration) *net.Dialer {
	probes := net.KeepAliveConfig{Enable: true, Idle: silence / 3, Interval: silence / 3, Count: 3}
	return &net.Dialer{Timeout: timeout, KeepAliveConfig: probes, Control: boundSilence}
}

// boundTransactions has Postgres end a transaction whose owner has been silent for some time,
// and is frozen or cut off: others must not wait for its locks. Transactions do nothing but
// SQL, so a healthy one is never silent for long.
func boundTransactions(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, fmt.Sprintf(`SET idle_in_transaction_session_timeout = %d`, silentOwner.Milliseconds()))
	return err
}

// pingIdle checks a connection that was idle before it is used. The answer to that needs no work of the
// database, so that it is not waited for as long as others: each of several silent connections is tried.
func pingIdle(limit time.Duration) func(context.Context, stdlib.ShouldPingParams) bool {
	return func(ctx context.Context, p stdlib.ShouldPingParams) bool {
		if p.IdleDuration > time.Second {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			_ = p.Conn.Ping(ctx) // closes one that fails, see [stillOpen]
		}
		return false
	}
}

func stillOpen(_ context.Context, c *pgx.Conn) error {
	if c.IsClosed() {
		return driver.ErrBadConn
	}
	return nil
}

// stillWritable is stillOpen for connections that are to write. One that was opened while the database took no writes,
// since its disk was nearly full, say, or it was a standby, would stay so after that is over. Postgres reports both (from
// 14 on; postgresql.org/docs/15/protocol-flow.html#PROTOCOL-ASYNC).
func stillWritable(ctx context.Context, c *pgx.Conn) error {
	for _, setting := range []string{"default_transaction_read_only", "in_hot_standby"} {
		if c.PgConn().ParameterStatus(setting) == "on" {
			return driver.ErrBadConn
		}
	}
	return stillOpen(ctx, c)
}

// silentOwner is shorter than the lease of a replica, so that its successor finds no locks.
const silentOwner = 10 * time.Second

// pgConfig is how to connect once more, for LISTEN, and how long an answer may take there.
type pgConfig struct {
	*pgx.ConnConfig
	answer time.Duration
}

func openPostgres(ctx context.Context, rawURL string, conns int, answer time.Duration) (*DB, error) {
	where := "postgres"
	if u, err := url.Parse(rawURL); err == nil {
		where = u.Redacted()
	}
	config, err := pgx.ParseConfig(rawURL)
	if err != nil { // pgx leaves the password out of its message
		return nil, fmt.Errorf("open database: %w", err)
	}
	config.ConnectTimeout = cmp.Or(config.ConnectTimeout, connectTimeout)
	dial := dialer(config.ConnectTimeout).DialContext
	config.DialFunc = dial
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "dstack"
	}
	// Whoever reads inside of a transaction must not wait for the connections of those who do the
	// same: reads and transactions have their own.
	patient := config.Copy()
	patient.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &patience{Conn: c, limit: answer}, nil
	}
	pool := func(conns int, still func(context.Context, *pgx.Conn) error) *sql.DB {
		p := stdlib.OpenDB(*patient, stdlib.OptionAfterConnect(boundTransactions),
			stdlib.OptionShouldPing(pingIdle(answer/6)), stdlib.OptionResetSession(still))
		p.SetMaxOpenConns(conns)
		p.SetMaxIdleConns(conns)
		return p
	}
	readers := max(1, conns/2)
	db := &DB{engine: Postgres, where: where, reader: pool(readers, stillOpen), writer: pool(max(1, conns-readers), stillWritable), pg: &pgConfig{config, answer}}
	if err := db.writer.PingContext(ctx); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("connect to database %s: %w", where, err)
	}
	return db, nil
}

// advisoryLock makes replicas migrate one after the other. It is per schema.
type advisoryLock struct{}

// SessionLock implements goose's lock.SessionLocker.
func (advisoryLock) SessionLock(ctx context.Context, c *sql.Conn) error {
	_, err := c.ExecContext(ctx, `SELECT pg_advisory_lock(hashtext('dstack ' || current_schema()))`)
	return err
}

// SessionUnlock implements goose's lock.SessionLocker.
func (advisoryLock) SessionUnlock(ctx context.Context, c *sql.Conn) error {
	_, err := c.ExecContext(ctx, `SELECT pg_advisory_unlock(hashtext('dstack ' || current_schema()))`)
	return err
}

// MaxMessage is the longest message that [DB.Notify] takes, in bytes
// (postgresql.org/docs/15/sql-notify.html).
const MaxMessage = 7999

// channel is the database's own: notifications are seen in all schemas of a database.
func (db *DB) channel() string { return "dstack_" + strings.ReplaceAll(db.serverID, "-", "") }

// Notify sends msg, at most [MaxMessage] bytes, to every replica that listens, this one
// included. On SQLite there are no others and it does nothing.
func (db *DB) Notify(ctx context.Context, msg string) error {
	if db.engine == SQLite {
		return nil
	}
	_, err := db.writer.ExecContext(ctx, `SELECT pg_notify($1, $2)`, db.channel(), msg)
	if err != nil {
		return fmt.Errorf("notify replicas: %w", err)
	}
	return nil
}

// Listen calls fn with every message that [DB.Notify] sends from now on, until ctx ends or
// the connection breaks. It calls ready once it listens; what was sent before is missed.
func (db *DB) Listen(ctx context.Context, ready func(), fn func(msg string)) error {
	if db.engine == SQLite {
		ready()
		<-ctx.Done()
		return ctx.Err()
	}
	conn, err := pgx.ConnectConfig(ctx, db.pg.Copy())
	if err != nil {
		return fmt.Errorf("listen to replicas: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // nothing was written on it
	}()
	if err := startListening(ctx, conn, db.channel(), db.pg.answer); err != nil {
		return fmt.Errorf("listen to replicas: %w", err)
	}
	ready()
	for {
		n, err := nextNotification(ctx, conn, db.pg.answer/2)
		if err != nil {
			return fmt.Errorf("listen to replicas: %w", err)
		}
		if n != nil {
			fn(n.Payload)
		}
	}
}

func startListening(ctx context.Context, conn *pgx.Conn, channel string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := conn.Exec(ctx, `LISTEN `+pgx.Identifier{channel}.Sanitize())
	return err
}

// nextNotification is nil when none has come for some time on a connection that works. One that only listens
// sends nothing, so that it is asked: as on others (see patience), the kernel of something between may answer
// while nobody is behind it.
func nextNotification(ctx context.Context, conn *pgx.Conn, limit time.Duration) (*pgconn.Notification, error) {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	n, err := conn.WaitForNotification(wait)
	if n != nil {
		return n, nil
	}
	if wait.Err() == nil || ctx.Err() != nil {
		return nil, err
	}
	ping, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return nil, conn.Ping(ping)
}
