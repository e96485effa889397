package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"dstack/internal/event"
	"dstack/internal/store"
)

const (
	headerTimeout = 10 * time.Second
	// bodyTimeout bounds how long a client may take to send a JSON body.
	bodyTimeout = 30 * time.Second
	// uploadTimeout is the same for code and files: 2 MiB over a bad line.
	uploadTimeout = 10 * time.Minute
	idleTimeout   = 2 * time.Minute
	// drainTimeout is how long requests under way may go on when the server stops. Streams end
	// at once: clients take them up again.
	drainTimeout = 10 * time.Second
)

// URL is where clients reach the server.
func (s *Server) URL() string {
	if s.PublicURL != "" {
		return s.PublicURL
	}
	return "http://" + net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
}

// Run serves until ctx ends, then lets what is under way end. ready is called once
// requests are answered; with Port 0 the port is known then. It closes what [New] opened.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if s.Port < 0 || s.Port > 65535 {
		return errors.Join(fmt.Errorf("port %d: use one from 1 to 65535", s.Port), s.close())
	}
	l, err := net.Listen("tcp", net.JoinHostPort(s.Host, strconv.Itoa(s.Port)))
	if err != nil {
		return errors.Join(listenError(s.Host, s.Port, err), s.close())
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		s.Port = a.Port
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	worked := make(chan error, 1)
	srv := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context { return work }, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	s.access.http = srv
	go func() { worked <- s.Work(work) }()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	ready()
	select {
	case err = <-served:
	case <-ctx.Done():
		s.drain(ctx, srv)
	}
	stop()
	return errors.Join(err, <-worked)
}

// close closes what [New] opened, of a server that does not work.
func (s *Server) close() error {
	s.pool.Close()
	s.catalog.Close()
	return s.db.Close()
}

// Work does all but listen for requests until ctx ends. Then it lets what is under way end
// and closes the database.
func (s *Server) Work(ctx context.Context) error {
	var wg sync.WaitGroup
	loops := map[string]func(context.Context) error{"engine": s.engine.Run, "logs": s.logs.Run, "backends": s.followBackends, "prices": s.clouds.prices.Run, "proxy": s.proxy.Run}
	if s.Resting && s.db.Engine() == store.SQLite {
		s.Log.Warn("nobody works on runs and machines: this server is told not to, and no other can share a SQLite database")
	}
	if !s.Resting {
		loops["metrics"], loops["expiry"] = s.metrics.Run, s.expire
	}
	for name, loop := range loops {
		wg.Go(func() {
			if err := loop(ctx); err != nil && ctx.Err() == nil {
				s.Log.Error("a part of the server ended", "part", name, "err", err)
			}
		})
	}
	<-ctx.Done()
	s.pool.Close()
	s.catalog.Close()
	wg.Wait()
	return s.db.Close()
}

// drain ends streams, waits for other requests, and ends those that take too long.
func (s *Server) drain(ctx context.Context, srv *http.Server) {
	s.Log.Info("stopping: waiting for requests under way")
	close(s.stopping)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		s.Log.Warn("requests were cut off", "err", err)
		_ = srv.Close() // the listener is closed already
	}
}

func listenError(host string, port int, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d of %s is in use: stop the program that uses it, or choose another port with --port", port, host)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("port %d of %s may not be used by this user: choose one above 1023 with --port", port, host)
	}
	return fmt.Errorf("listen on %s:%d: %w", host, port, err)
}

// untilStopping ends ctx when the server begins to stop.
func (s *Server) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

const (
	eventTTL = 30 * 24 * time.Hour // unless the configuration says otherwise
	// uploadTTL is how long an upload is kept that nothing refers to: until long after the
	// request that follows it.
	uploadTTL = 24 * time.Hour
)

// expire removes what is too old, once per hour.
func (s *Server) expire(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Hour):
		}
		now := time.Now()
		err := event.Expire(ctx, s.db, now.Add(-max(s.EventTTL, 0)))
		if err = errors.Join(err, s.repos.Expire(ctx, now.Add(-uploadTTL))); err != nil && ctx.Err() == nil {
			s.Log.Warn("remove what is too old", "err", err)
		}
	}
}

// observed logs requests, bounds their bodies in time, and contains a panic of a handler: the
// request fails, the server goes on.
func (s *Server) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, rec := time.Now(), &recorder{ResponseWriter: w}
		defer func() {
			v := recover()
			if v != nil && v != http.ErrAbortHandler {
				s.fail(rec, r, fmt.Errorf("handler failed: %v", v))
			}
			s.Log.Debug("request", "method", r.Method, "path", r.URL.Path, "status", rec.status, "dur", time.Since(began))
			if v == http.ErrAbortHandler { // the connection is to break, so that the client sees that the end is missing
				panic(v)
			}
		}()
		within(rec, bodyTimeout)
		next.ServeHTTP(rec, r)
	})
}

// recorder remembers the status of a response.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements [http.ResponseWriter].
func (r *recorder) WriteHeader(status int) {
	if r.status != 0 {
		return
	}
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols { // others announce the answer
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(cmp.Or(r.status, http.StatusOK))
	return r.ResponseWriter.Write(p)
}

// Unwrap lets an [http.ResponseController] reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
