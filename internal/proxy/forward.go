package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"dstack/internal/run"
)

const (
	defaultTimeout = time.Minute
	dialTimeout    = 10 * time.Second
	// idleTimeout is how long a connection to a replica is kept for the next request, of at
	// most idlePerReplica.
	idleTimeout    = time.Minute
	idlePerReplica = 32
)

// forward passes a request on to one of a service's replicas, as it is but for the path, and
// passes the answer back as it comes.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, s *served, path string) {
	body := &input{ReadCloser: r.Body}
	unescaped, err := url.PathUnescape(path)
	if err != nil {
		p.fail(w, r, err) // it was read as a path before
		return
	}
	pass := httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			to := *pr.In.URL
			to.Scheme, to.Host, to.Path, to.RawPath = "http", s.RunID, unescaped, path
			pr.Out.URL = &to
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := pr.In.Header[name]; ok { // of a proxy in front of the server
					pr.Out.Header[name] = v
				}
			}
		},
		Transport: &sender{p, s, body},
		ModifyResponse: func(res *http.Response) error {
			res.Header.Del("Server")
			res.Header.Del("Date")
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { p.fail(w, r, explain(err, body)) },
		ErrorLog:     slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
		BufferPool:   &buffers,
	}
	pass.ServeHTTP(w, r)
}

// explain is the answer to a request that no replica has answered.
func explain(err error, b *input) error {
	no, known := errors.AsType[*refusal](err)
	wait, slow := errors.AsType[net.Error](err)
	switch {
	case known:
		return no
	case errors.Is(err, errSilent):
		return &refusal{http.StatusBadGateway, "Error requesting upstream: " + errSilent.Error()}
	case b.broken():
		return &refusal{http.StatusBadRequest, "Client disconnected"}
	case slow && wait.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return &refusal{http.StatusGatewayTimeout, "Timed out requesting upstream"}
	}
	return &refusal{http.StatusBadGateway, "Error requesting upstream"}
}

// sender gives a request to replicas until one takes it.
type sender struct {
	p    *Proxy
	s    *served
	body *input
}

// RoundTrip implements [http.RoundTripper].
func (t *sender) RoundTrip(req *http.Request) (*http.Response, error) {
	tried := map[string]bool{}
	var last error = &refusal{http.StatusServiceUnavailable, "Service " + t.s.Project + "/" + t.s.Name + " has no replicas that take requests now"}
	if req.Body != nil { // what the caller has wrapped it into takes no second attempt
		req = req.WithContext(req.Context())
		req.Body = t.body
	}
	for {
		e, ok := t.p.balance.take(t.s, tried)
		if !ok {
			return nil, last
		}
		tried[e.JobID] = true
		res, err := t.p.send(req, e)
		if err == nil {
			return res, nil
		}
		if last = err; !t.again(req, err) {
			return nil, err
		}
	}
}

// again says that another replica may be asked: this one cannot have acted on the request, or
// may do so twice.
func (t *sender) again(req *http.Request, err error) bool {
	if req.Context().Err() != nil || t.body.read() {
		return false
	}
	_, unsent := errors.AsType[*dialError](err)
	wait, slow := errors.AsType[net.Error](err)
	safe := req.Method == http.MethodGet || req.Method == http.MethodHead || req.Method == http.MethodOptions
	return unsent || safe && !(slow && wait.Timeout())
}

// send asks one replica, which was taken for it.
func (p *Proxy) send(req *http.Request, e run.Endpoint) (*http.Response, error) {
	w := p.watched(req.Context(), e)
	out := req.WithContext(context.WithValue(w.ctx, endpointKey{}, e))
	to := *req.URL
	to.Host = e.JobID
	out.URL = &to
	res, err := p.outgoing.RoundTrip(out)
	if err != nil {
		_, unreachable := errors.AsType[*dialError](err)
		if silent := w.stop(); silent != nil {
			unreachable, err = true, silent
		}
		p.balance.release(e.JobID, unreachable)
		return nil, err
	}
	w.said()
	done := sync.OnceFunc(func() { p.balance.release(e.JobID, w.stop() != nil) })
	if both, ok := res.Body.(io.ReadWriteCloser); ok {
		context.AfterFunc(w.ctx, func() { _ = both.Close() }) // both sides see that it is over
		res.Body = &upgraded{both, w, done}
	} else {
		res.Body = &counted{res.Body, w, done}
	}
	return res, nil
}

// counted is a body that says when it is over.
type counted struct {
	io.ReadCloser
	watch *watch
	done  func()
}

// Read notes that the replica says something.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 {
		c.watch.said()
	}
	return n, err
}

// Close ends the request.
func (c *counted) Close() error {
	c.done()
	return c.ReadCloser.Close()
}

// upgraded is the same for a connection that is used otherwise now.
type upgraded struct {
	io.ReadWriteCloser
	watch *watch
	done  func()
}

// Read notes that the replica says something.
func (u *upgraded) Read(p []byte) (int, error) {
	n, err := u.ReadWriteCloser.Read(p)
	if n > 0 {
		u.watch.said()
	}
	return n, err
}

// Close ends the connection.
func (u *upgraded) Close() error {
	u.done()
	return u.ReadWriteCloser.Close()
}

// endpointKey is where a request's context has the [run.Endpoint] to connect to.
type endpointKey struct{}

// dialError says that a replica was not reached: it knows nothing of the request.
type dialError struct{ err error }

func (e *dialError) Error() string { return "connect to a replica: " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// transport keeps connections to replicas, which stand for host names.
func (p *Proxy) transport() http.RoundTripper {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			c, err := p.Dial(ctx, ctx.Value(endpointKey{}).(run.Endpoint))
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		ResponseHeaderTimeout: p.Timeout,
		MaxIdleConnsPerHost:   idlePerReplica,
		IdleConnTimeout:       idleTimeout,
		DisableCompression:    true, // bodies pass as they are
	}
}

// input is what a client sends. It stays open for a second attempt, and remembers what became
// of it.
type input struct {
	io.ReadCloser
	mu    sync.Mutex
	begun bool
	err   error
}

// Read implements [io.Reader].
func (b *input) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun = true
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// Close leaves the body to the server, which closes it.
func (b *input) Close() error { return nil }

func (b *input) read() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.begun
}

func (b *input) broken() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

// buffers are for copying answers.
var buffers = pool{sync.Pool{New: func() any { return new([32 << 10]byte) }}}

type pool struct{ sync.Pool }

// Get implements [httputil.BufferPool].
func (p *pool) Get() []byte { return p.Pool.Get().(*[32 << 10]byte)[:] }

// Put implements [httputil.BufferPool].
func (p *pool) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }
