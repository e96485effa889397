package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"dstack/internal/agentapi"
)

const (
	// accessPatience is how long a job waits for the server before its command starts.
	accessPatience = 2 * time.Minute
	// callPatience is how long a call waits while the server is away: it may be restarting.
	callPatience = 30 * time.Second
)

// noAccess is why a job that may call the server does not start.
const noAccess = "Could not establish dstack server access"

// access joins the job's calls with connections that the server has waiting, one at a time. The
// server opens them, since nothing on a host may be able to reach it.
type access struct {
	mu      sync.Mutex
	waiting *offer        // the newest; of a server that is gone nobody may know yet
	news    chan struct{} // closed, and replaced, when there is a new one
}

// offer is a request of the server that waits for a call.
type offer struct {
	call     chan net.Conn // has room for it
	replaced chan struct{} // closed when a newer offer has come instead
}

func newAccess() *access { return &access{news: make(chan struct{})} }

// serverSocket is where the runner takes calls of the job.
func (r *runner) serverSocket() string {
	if r.Container {
		return agentapi.ServerSocket
	}
	return filepath.Join(r.Dir, ServerFile)
}

// maxSocketPath is how long a socket's name may be, in bytes, for clients that do not know
// [ShortPath].
const maxSocketPath = 107

// serverURL is where the job finds the server, as a client's setting.
func (r *runner) serverURL() string { return "http+unix://" + url.PathEscape(r.callAt) }

// openAccess opens the job's socket until ctx ends, and waits until the server is there.
func (r *runner) openAccess(ctx context.Context) error {
	l, err := listenForJob(r.serverSocket(), r.Container)
	if err != nil {
		return err
	}
	if r.callAt = r.serverSocket(); len(r.callAt) > maxSocketPath {
		short, done, err := ShortPath(r.callAt)
		if err != nil {
			l.Close()
			return err
		}
		context.AfterFunc(ctx, done)
		r.callAt = strings.Replace(short, "self", strconv.Itoa(os.Getpid()), 1) // the job's processes look there too
	}
	go r.access.serve(ctx, l, r.serverSocket())
	return r.access.ready(ctx, accessPatience)
}

// listenForJob opens a socket for every user of the job.
func listenForJob(path string, own bool) (net.Listener, error) {
	if dir := filepath.Dir(path); own {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask is
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	l, err := listenUnix(path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return l, nil
}

// ready returns when the server waits for calls.
func (a *access) ready(ctx context.Context, limit time.Duration) error {
	a.mu.Lock()
	waiting, news := a.waiting, a.news
	a.mu.Unlock()
	if waiting != nil {
		return nil
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-news:
		return nil
	case <-late.C:
		return fmt.Errorf("the server did not connect within %v", limit)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// serve takes the job's calls until ctx ends, and removes the socket.
func (a *access) serve(ctx context.Context, l net.Listener, path string) {
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		os.Remove(path)
	})
	defer stop()
	room := make(chan struct{}, agentapi.MaxCalls) // for calls that wait; the kernel holds some more
	for {
		room <- struct{}{}
		c, err := l.Accept()
		for err != nil && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil { // out of files, for example
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			c, err = l.Accept()
		}
		if err != nil {
			return
		}
		go func() {
			defer func() { <-room }()
			a.pass(ctx, c)
		}()
	}
}

// pass gives a call to the server that waits, or to the next that comes soon enough.
func (a *access) pass(ctx context.Context, c net.Conn) {
	late := time.NewTimer(callPatience)
	defer late.Stop()
	for {
		a.mu.Lock()
		o, news := a.waiting, a.news
		if o != nil {
			a.waiting = nil
			o.call <- c
		}
		a.mu.Unlock()
		if o != nil {
			return
		}
		select {
		case <-news:
		case <-late.C:
			c.Close()
			return
		case <-ctx.Done():
			c.Close()
			return
		}
	}
}

// offer puts a new offer in the place of the one that waits.
func (a *access) offer() *offer {
	o := &offer{call: make(chan net.Conn, 1), replaced: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting != nil {
		close(a.waiting.replaced)
	}
	a.waiting = o
	close(a.news)
	a.news = make(chan struct{})
	return o
}

// withdraw takes an offer back. Another may have come instead, or a call.
func (a *access) withdraw(o *offer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == o {
		a.waiting = nil
	}
}

// accept answers the server with a call of the job, as soon as there is one.
func (a *access) accept(w http.ResponseWriter, req *http.Request) {
	ctx := req.Context()
	o := a.offer()
	select {
	case c := <-o.call:
		a.answer(w, c)
	case <-o.replaced:
		http.Error(w, "another connection waits", http.StatusServiceUnavailable)
	case <-ctx.Done():
		a.withdraw(o)
		select {
		case c := <-o.call: // it came at the same moment
			a.pass(context.WithoutCancel(ctx), c)
		default:
		}
	}
}

// answer switches the server's request to the bytes of a call. The next server gets the call when
// this one is gone.
func (a *access) answer(w http.ResponseWriter, call net.Conn) {
	server, buffered, err := http.NewResponseController(w).Hijack()
	if err == nil {
		defer server.Close()
		_, err = fmt.Fprintf(server, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", agentapi.Joined)
	}
	if err != nil {
		a.pass(context.Background(), call) // for as long as a call may wait
		return
	}
	join(server, buffered, call)
}

// join carries bytes both ways until one side ends.
func join(server net.Conn, fromServer io.Reader, call net.Conn) {
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(call, fromServer) // until either is closed
		call.Close()
	})
	_, _ = io.Copy(server, call) // the same
	server.Close()
	both.Wait()
}
