package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// terminate asks for the end. It returns at once; the state follows on the stream.
func (t *task) terminate(req agentapi.Terminate) {
	if req.Reason == "" { // without one, a task that is being started would not be seen to end
		req.Reason = agentapi.TerminatedByServer
	}
	t.mu.Lock()
	state := t.state.State
	urgent := t.ending == nil || req.Grace < t.ending.Grace
	if urgent {
		if t.ending != nil { // the first reason stays
			req.Reason, req.Message = t.ending.Reason, t.ending.Message
		}
		t.ending, t.stopBy = &req, time.Now().Add(agentapi.Seconds(req.Grace))
	}
	cancel := t.cancel
	switch { // the server repeats itself until it hears of the end
	case state != agentapi.Running:
	case urgent:
		t.pursue(req)
	case t.stop == nil: // the container was killed, and lives
		again := *t.ending
		again.Grace = int64(max(0, time.Until(t.stopBy)) / time.Second)
		t.pursue(again)
	}
	t.mu.Unlock()
	if state != agentapi.Terminated {
		t.store()
	}
	if state != agentapi.Terminated && state != agentapi.Running && cancel != nil {
		cancel()
	}
}

// pursue has a running task ended. t.mu is held.
func (t *task) pursue(req agentapi.Terminate) {
	t.stop = &req
	t.shim.wg.Go(func() {
		t.end(req)
		t.mu.Lock()
		if t.stop == &req { // nobody is in more of a hurry
			t.stop = nil
		}
		t.mu.Unlock()
	})
}

// end tells the runner, and kills the container when it does not obey.
func (t *task) end(req agentapi.Terminate) {
	ctx, cancel := context.WithTimeout(t.shim.ctx, agentapi.Seconds(req.Grace)+10*time.Second)
	defer cancel()
	if req.Grace > 0 && t.reach(ctx, req) {
		select {
		case <-t.ended:
			return
		case <-ctx.Done():
		}
	}
	for wait := killAgain; t.shim.ctx.Err() == nil && !t.kill(); wait = min(2*wait, time.Minute) {
		select { // the engine may be starting; a server that knows no job of the task asks only once
		case <-time.After(wait):
		case <-t.ended:
			return
		case <-t.shim.ctx.Done():
		}
	}
}

// tellAgain spaces attempts to tell a runner.
const tellAgain = time.Second

// reach tells the runner, and says whether it knows. One that does not answer is told again for as long as the grace
// lasts: its host may swap, or its container be paused, and what its job would do with the time must not be lost.
func (t *task) reach(ctx context.Context, req agentapi.Terminate) bool {
	over := time.Now().Add(agentapi.Seconds(req.Grace))
	for req.Grace > 0 {
		err := t.tell(ctx, req)
		if err == nil || errors.Is(err, errNoSocket) { // one that has not begun has no job yet
			return err == nil
		}
		select {
		case <-time.After(tellAgain):
		case <-t.ended:
			return false
		case <-ctx.Done():
			return false
		}
		req.Grace = int64(time.Until(over) / time.Second)
	}
	return false
}

// killAgain is when the first attempt to kill a container that failed is repeated; later ones are further apart.
const killAgain = time.Second

// kill ends the container; it says whether it could.
func (t *task) kill() bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.shim.ctx), time.Minute)
	defer cancel()
	err := t.shim.Runtime.Kill(ctx, t.spec.ID)
	if err == nil || errors.Is(err, runtime.ErrNotFound) {
		return true
	}
	t.shim.Log.Error("kill a container", "task", t.spec.ID, "err", err)
	return false
}

// tell posts to the runner's control socket.
func (t *task) tell(ctx context.Context, req agentapi.Terminate) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	c := &http.Client{Transport: t.toRunner()}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://runner/stop", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return fmt.Errorf("tell the runner: %w", err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("tell the runner: %s", resp.Status)
	}
	return nil
}

var errNoSocket = errors.New("the runner's socket is not there")

// toRunner carries requests to the runner's control socket.
func (t *task) toRunner() http.RoundTripper {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		path := filepath.Join(t.jobDir(), runner.ControlFile)
		if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
			return nil, errNoSocket
		}
		short, done, err := runner.ShortPath(path)
		if err != nil {
			return nil, err
		}
		defer done()
		return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", short)
	}}
}
