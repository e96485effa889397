package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// scale are the sizes of the scale benchmark.
type scale struct {
	Hosts    int // simulated, each over its own SSH connection
	PerFleet int
	Burst    int // jobs submitted at once
	Queued   int // runs that wait when the server starts
	Events   int // stored
	Runs     int // stored and finished
	Idle     time.Duration
	Profiles string // folder for profiles, "" for none
}

// measureScale measures the server with many hosts.
func measureScale(ctx context.Context, o options, r *report) error {
	w, err := newWorld(o.Dstack)
	if err != nil {
		return err
	}
	defer w.close()
	if o.Scale.Profiles != "" {
		if err := w.profile(o.Scale.Profiles); err != nil {
			return err
		}
	}
	if _, err := w.write("server/config.yml", "projects:\n  - name: main\n    backends: []\n"); err != nil {
		return err
	}
	sim, err := startSimulator(ctx, o)
	if err != nil {
		return err
	}
	defer sim.close()
	if _, err := w.start(ctx); err != nil {
		return err
	}
	for _, phase := range []func(context.Context, options, *world, *simulator, *report) error{
		onboard, idleWithHosts, burst, reconnect, queue, history,
	} {
		if err := phase(ctx, o, w, sim, r); err != nil {
			return fmt.Errorf("%w\n%s", err, tail(filepath.Join(w.dir, "server.log")))
		}
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// onboard adds the hosts through the API, a fleet at a time, as users do.
func onboard(ctx context.Context, o options, w *world, sim *simulator, r *report) error {
	say("adding %d hosts", o.Scale.Hosts)
	begin := time.Now()
	for first := 0; first < o.Scale.Hosts; first += o.Scale.PerFleet {
		var hosts []string
		for n := first; n < min(first+o.Scale.PerFleet, o.Scale.Hosts); n++ {
			hosts = append(hosts, address(n))
		}
		body := map[string]any{"force": true, "plan": map[string]any{"spec": map[string]any{
			"profile": map[string]any{"name": "default"},
			"configuration": map[string]any{"type": "fleet", "name": fmt.Sprintf("f%d", first/o.Scale.PerFleet),
				"ssh_config": map[string]any{"user": "root", "port": simulatorPort, "ssh_key": map[string]any{"public": sim.key.Public, "private": sim.key.Private}, "hosts": hosts}},
		}}}
		var out json.RawMessage
		if err := w.api(ctx, "/api/project/main/fleets/apply", body, &out); err != nil {
			return err
		}
		if err := sim.connected(ctx, min(first+o.Scale.PerFleet, o.Scale.Hosts), 10*time.Minute); err != nil {
			return err
		}
	}
	r.add("hosts added, all of them", "s", time.Since(begin).Seconds())
	return nil
}

// idleWithHosts measures a server with nothing to do but keep its connections.
func idleWithHosts(ctx context.Context, o options, w *world, sim *simulator, r *report) error {
	pause(ctx, 20*time.Second) // what the onboarding left to do
	say("idle for %v", o.Scale.Idle)
	pid := w.server.Process.Pid
	_, before, err := usage(pid)
	if err != nil {
		return err
	}
	done := w.cpuProfile(ctx, "idle", o.Scale.Idle)
	pause(ctx, o.Scale.Idle)
	memory, after, err := usage(pid)
	if err != nil {
		return err
	}
	<-done
	w.heapProfile(ctx, "idle")
	r.add("server memory, all hosts connected", "MB", memory)
	r.add("server load, idle", "% of a core", 100*float64(after-before)/float64(o.Scale.Idle))
	s, err := sim.stats()
	if err != nil {
		return err
	}
	r.add("a simulated host's own memory", "KB", s.Megabytes*1024/float64(s.Hosts))
	done = w.cpuProfile(ctx, "probe", 10*time.Second)
	defer func() { <-done }()
	return probeAll(ctx, w, r, "", 100)
}

// burst submits jobs at once and waits until they are done.
func burst(ctx context.Context, o options, w *world, _ *simulator, r *report) error {
	say("burst of %d jobs", o.Scale.Burst)
	for round := range 3 {
		done := w.cpuProfile(ctx, fmt.Sprintf("burst%d", round), 3*time.Second)
		begin := time.Now()
		err := inParallel(ctx, 8, o.Scale.Burst, func(i int) error {
			return submit(ctx, w, fmt.Sprintf("b%d-%d", round, i), "echo hello", nil, 0)
		})
		if err != nil {
			return err
		}
		submitted := time.Since(begin)
		if err := w.untilNoneActive(ctx, time.Minute); err != nil {
			return err
		}
		r.add("burst of jobs, submitted", "s", submitted.Seconds())
		r.add("burst of jobs, all done", "s", time.Since(begin).Seconds())
		<-done
	}
	return nil
}

// reconnect measures what a restart costs.
func reconnect(ctx context.Context, o options, w *world, sim *simulator, r *report) error {
	for range 2 {
		say("restart")
		w.stop()
		if err := sim.connected(ctx, 0, time.Minute); err != nil {
			return err
		}
		begin := time.Now()
		took, err := w.start(ctx)
		if err != nil {
			return err
		}
		done := w.cpuProfile(ctx, "reconnect", 8*time.Second)
		if err := sim.connected(ctx, o.Scale.Hosts, 5*time.Minute); err != nil {
			return err
		}
		r.add("server start, many hosts", "s", took.Seconds())
		r.add("all hosts reconnected after a restart", "s", time.Since(begin).Seconds())
		memory, _, err := usage(w.server.Process.Pid)
		if err != nil {
			return err
		}
		r.add("server memory, just reconnected", "MB", memory)
		<-done
	}
	return nil
}

// queue makes a long queue appear before hosts that are free, in four of the fleets.
func queue(ctx context.Context, o options, w *world, _ *simulator, r *report) error {
	say("queue of %d runs", o.Scale.Queued)
	if err := submit(ctx, w, "template", "sleep 0.05", queueFleets, 0); err != nil {
		return err
	}
	if err := w.untilNoneActive(ctx, time.Minute); err != nil {
		return err
	}
	if err := fillQueue(ctx, w.database(), o.Scale.Queued); err != nil {
		return err
	}
	_, busy, err := usage(w.server.Process.Pid)
	if err != nil {
		return err
	}
	begin := time.Now()
	done := w.cpuProfile(ctx, "queue", 20*time.Second)
	if err := submit(ctx, w, "last", "sleep 0.05", queueFleets, 0); err != nil {
		return err
	}
	probed := make(chan error, 1)
	go func() { probed <- probeAll(ctx, w, r, ", runs being placed", 40) }()
	if err := w.untilNoneActive(ctx, 15*time.Minute); err != nil {
		return err
	}
	r.add("queue of runs, all done", "s", time.Since(begin).Seconds())
	_, after, err := usage(w.server.Process.Pid)
	if err != nil {
		return err
	}
	r.add("processor time of the server per run, with the requests", "ms", float64((after-busy).Microseconds())/1000/float64(o.Scale.Queued))
	<-done
	if err := <-probed; err != nil {
		return err
	}
	return placements(ctx, o, w, r)
}

// queueFleets are where the runs of the queue may go.
var queueFleets = []string{"f0", "f1", "f2", "f3"}

// placements looks at the events of the queue: how fast runs were placed, and in which order.
func placements(ctx context.Context, o options, w *world, r *report) error {
	w.stop() // the database has one user
	p, err := readPlacements(ctx, w.database(), len(queueFleets)*o.Scale.PerFleet)
	if err != nil {
		return err
	}
	r.add("runs placed per second", "/s", p.perSecond)
	r.add("placed out of order", "runs", float64(p.inversions))
	r.add("runs placed in the first second", "runs", float64(p.first))
	_, err = w.start(ctx)
	return err
}

// history measures a server that has seen much.
func history(ctx context.Context, o options, w *world, sim *simulator, r *report) error {
	say("%d events and %d finished runs", o.Scale.Events, o.Scale.Runs)
	w.stop()
	if err := fillHistory(ctx, w.database(), o.Scale.Events, o.Scale.Runs); err != nil {
		return err
	}
	for range 3 {
		took, err := w.start(ctx)
		if err != nil {
			return err
		}
		r.add("server start with history", "s", took.Seconds())
		w.stop()
	}
	if _, err := w.start(ctx); err != nil {
		return err
	}
	if err := sim.connected(ctx, o.Scale.Hosts, 5*time.Minute); err != nil {
		return err
	}
	pause(ctx, 10*time.Second)
	done := w.cpuProfile(ctx, "history", 20*time.Second)
	err := probeAll(ctx, w, r, ", with history", 100)
	<-done
	return err
}

// submit applies a task.
func submit(ctx context.Context, w *world, name, command string, fleets []string, priority int) error {
	conf := map[string]any{"type": "task", "commands": []string{command}, "image": "job:1", "priority": priority}
	if fleets != nil {
		conf["fleets"] = fleets
	}
	var out json.RawMessage
	return w.api(ctx, "/api/project/main/runs/apply", map[string]any{"force": true, "plan": map[string]any{"run_spec": map[string]any{
		"run_name": name, "configuration": conf, "profile": map[string]any{"name": "default", "retry": map[string]any{"on_events": []string{"no-capacity"}, "duration": "1d"}},
	}}}, &out)
}

// untilNoneActive waits until no run of the project is unfinished.
func (w *world) untilNoneActive(ctx context.Context, limit time.Duration) error {
	for begin := time.Now(); time.Since(begin) < limit && ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		var runs []runState
		if err := w.api(ctx, "/api/runs/list", map[string]any{"project_name": "main", "only_active": true, "limit": 1, "include_jobs": false}, &runs); err != nil {
			return err
		}
		if len(runs) == 0 {
			return nil
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("runs are unfinished, after %v at most", limit))
}

func (w *world) database() string { return filepath.Join(w.dir, "server", "data", "dstack.db") }
