package server

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"dstack/internal/agentapi"
)

// jobAccess serves the API to jobs that may call it (`dstack: true`), over the connections to
// their hosts. It belongs to who holds these: it opens with them and ends with them.
type jobAccess struct {
	// mayCall says whether a job on a host may call the server; listen takes its connections until ctx
	// or the job has ended.
	mayCall func(ctx context.Context, hostID, jobID string) (bool, error)
	listen  func(ctx context.Context, hostID, jobID string) net.Listener
	log     *slog.Logger
	http    *http.Server // nil where nothing is served

	mu   sync.Mutex
	open map[string]*opening
}

// opening is the access of one job; it has ended when its context has.
type opening struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// saw takes what a host says of a task: a job that runs there gets its access, for as long as ctx,
// the connection to the host, lasts.
func (a *jobAccess) saw(ctx context.Context, hostID string, t agentapi.Task) {
	switch {
	case !t.ServerAccess || a.http == nil:
	case t.State == agentapi.Running:
		a.begin(ctx, hostID, t.ID)
	case t.State == agentapi.Terminated:
		a.end(t.ID)
	}
}

func (a *jobAccess) begin(ctx context.Context, hostID, jobID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.open[jobID]; o != nil && o.ctx.Err() == nil {
		return
	}
	may, err := a.mayCall(ctx, hostID, jobID)
	if err != nil {
		a.log.Error("look whether a job may call the server", "job", jobID, "err", err)
	}
	if !may {
		return
	}
	o := &opening{}
	o.ctx, o.cancel = context.WithCancel(ctx)
	if a.open == nil {
		a.open = map[string]*opening{}
	}
	a.open[jobID] = o
	go func() {
		err := a.http.Serve(a.listen(o.ctx, hostID, jobID))
		if o.ctx.Err() == nil {
			a.log.Info("a job calls the server no more", "job", jobID, "why", err)
		}
		o.cancel()
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.open[jobID] == o {
			delete(a.open, jobID)
		}
	}()
}

func (a *jobAccess) end(jobID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.open[jobID]; o != nil {
		o.cancel()
	}
}
