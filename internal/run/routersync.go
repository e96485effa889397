package run

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/router"
	"dstack/internal/store"
)

// RouterKind is the engine's kind of services whose router is told of its workers. They are runs, by
// their ids; the passes of [Kind] schedule them.
const RouterKind = "router"

const (
	// routerEvery is how often a router and its workers are asked.
	routerEvery = 5 * time.Second
	// routerAsks bounds the workers that are asked at a time.
	routerAsks = 16
)

// tellsRouter says that a run's router has to be told of its workers: those of Dynamo find it.
func tellsRouter(r Run) bool {
	sv := r.Data.Spec.Configuration.Service
	if sv == nil || r.Status != api.RunRunning {
		return false
	}
	g := routerOf(sv)
	return g != nil && g.Router.Type == "smg"
}

// reconcileRouter tells the router of one service which workers there are (lifecycle 15.5).
func (s *Service) reconcileRouter(ctx context.Context, it engine.Item) (time.Time, error) {
	r, err := s.rows.run(ctx, s.DB.Read(), it.ID)
	if errors.Is(err, store.ErrNotFound) || err == nil && !tellsRouter(r) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	jobs, err := s.rows.jobsOf(ctx, s.DB.Read(), r.ID)
	if err != nil {
		return time.Time{}, err
	}
	at, workers := routed(r, jobs[r.ID])
	if at == nil {
		return time.Time{}, nil // the run is looked at again when that changes
	}
	s.syncRouter(ctx, r, *at, workers)
	return time.Now().Add(routerEvery), nil
}

// A worker is a replica behind a router: where it answers, and its address for the router.
type worker struct {
	Endpoint
	address string
}

// routed finds the router of a service and its workers among the replicas that are ready.
func routed(r Run, jobs []Job) (router *Endpoint, workers []worker) {
	group := *routerOf(r.Data.Spec.Configuration.Service).Name
	for _, j := range latestOf(jobs) {
		e, ok := endpoint(j)
		if !ok || !takesRequests(j) {
			continue
		}
		if j.Data.Spec.ReplicaGroup == group {
			router = &e
			continue
		}
		host := internalIP(j.Data.Provisioning)
		if host == "" && j.Data.Provisioning.Hostname != nil {
			host = *j.Data.Provisioning.Hostname
		}
		if host != "" {
			workers = append(workers, worker{e, net.JoinHostPort(host, strconv.Itoa(e.Port))})
		}
	}
	return router, workers
}

// syncRouter asks a router for its workers and brings them up to date. What does not work now is
// tried again soon.
func (s *Service) syncRouter(ctx context.Context, r Run, at Endpoint, workers []worker) {
	log := s.Log.With("run", r.Name, "run_id", r.ID)
	dial := func(e Endpoint) router.Dial {
		return func(ctx context.Context) (net.Conn, error) { return s.Connect(ctx, e) }
	}
	listed, err := router.Workers(ctx, dial(at))
	if err != nil {
		log.Debug("a router is not ready", "err", err)
		return
	}
	kind := router.KindOf(listed)
	found := make([]*router.Worker, len(workers))
	var asks errgroup.Group
	asks.SetLimit(routerAsks)
	for i, w := range workers {
		asks.Go(func() error {
			one, err := router.Find(ctx, dial(w.Endpoint), kind, w.address)
			if err != nil {
				log.Debug("a worker is not ready", "worker", w.address, "err", err)
				return nil
			}
			found[i] = &one
			return nil
		})
	}
	_ = asks.Wait() // none returns an error
	var wanted []router.Worker
	for _, w := range found {
		if w != nil {
			wanted = append(wanted, *w)
		}
	}
	add, remove := router.Plan(listed, wanted)
	// First those that take the place of others: a router without workers refuses requests.
	for _, w := range add {
		if err := router.Add(ctx, dial(at), w); err != nil {
			log.Warn("a router does not take a worker", "err", err)
			continue
		}
		log.Info("a worker was registered with its router", "worker", w.URL, "type", w.Type)
	}
	for _, l := range remove {
		if err := router.Remove(ctx, dial(at), l); err != nil {
			log.Warn("a router keeps a worker", "err", err)
			continue
		}
		log.Info("a worker was taken from its router", "worker", l.URL)
	}
}
