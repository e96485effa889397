package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"dstack/internal/agent/runner"
	"dstack/internal/agentapi"
)

// maxGrace bounds the seconds that a job may take to end: a year.
const maxGrace = 365 * 24 * 3600

func (s *Shim) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/host", s.getHost)
	mux.HandleFunc("GET /v1/tasks", s.getTasks)
	mux.HandleFunc("PUT /v1/tasks/{id}", s.putTask)
	mux.HandleFunc("POST /v1/tasks/{id}/terminate", s.terminateTask)
	mux.HandleFunc("POST /v1/tasks/{id}/accept", s.acceptCall)
	mux.HandleFunc("DELETE /v1/tasks/{id}", s.deleteTask)
	mux.HandleFunc("GET /v1/tasks/{id}/logs", s.getLogs)
	mux.HandleFunc("HEAD /v1/blobs/{sum}", s.headBlob)
	mux.HandleFunc("PUT /v1/blobs/{sum}", s.putBlob)
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("POST /v1/events/ack", s.ack)
	mux.HandleFunc("POST /v1/shutdown", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, struct{}{})
		s.stop()
	})
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the peer is gone
}

func refuse(w http.ResponseWriter, status int, code, msg string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(agentapi.Error{Code: code, Message: msg}) // the peer is gone
}

// decode reads a JSON body, or refuses it.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, agentapi.MaxBody)).Decode(v)
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		refuse(w, http.StatusRequestEntityTooLarge, agentapi.CodeInvalid, fmt.Sprintf("the body is larger than %d bytes", agentapi.MaxBody))
	case err != nil:
		refuse(w, http.StatusBadRequest, agentapi.CodeInvalid, "cannot read the body: "+err.Error())
	}
	return err == nil
}

func (s *Shim) getHost(w http.ResponseWriter, _ *http.Request) { answer(w, s.hostNow()) }

func (s *Shim) all() []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*task, 0, len(s.tasks))
	for _, t := range s.tasks {
		list = append(list, t)
	}
	return list
}

func (s *Shim) find(id string) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tasks[id]
}

func (s *Shim) getTasks(w http.ResponseWriter, _ *http.Request) {
	list := []agentapi.Task{}
	for _, t := range s.all() {
		state, _ := t.snapshot()
		list = append(list, state)
	}
	answer(w, list)
}

func (s *Shim) putTask(w http.ResponseWriter, r *http.Request) {
	var spec agentapi.TaskSpec
	if !decode(w, r, &spec) {
		return
	}
	if spec.ID != r.PathValue("id") {
		refuse(w, http.StatusBadRequest, agentapi.CodeInvalid, "id: not the one in the path")
		return
	}
	if err := validate(spec); err != nil {
		refuse(w, http.StatusBadRequest, agentapi.CodeInvalid, err.Error())
		return
	}
	if s.find(spec.ID) == nil {
		for _, sum := range blobsOf(spec) {
			if _, err := os.Stat(s.blobPath(sum)); err != nil {
				refuse(w, http.StatusConflict, agentapi.CodeMissingBlob, sum)
				return
			}
		}
	}
	t, err := s.create(spec)
	if errors.Is(err, errEnded) {
		refuse(w, http.StatusConflict, agentapi.CodeConflict, err.Error())
		return
	}
	if err != nil {
		refuse(w, http.StatusInternalServerError, "", err.Error())
		return
	}
	state, _ := t.snapshot()
	answer(w, state)
}

var errEnded = errors.New("the task has ended and was deleted")

// create stores the task and starts it; of two equal requests one does, and the other waits until it is stored:
// what was answered must be known after a crash.
func (s *Shim) create(spec agentapi.TaskSpec) (*task, error) {
	s.mu.Lock()
	if t := s.tasks[spec.ID]; t != nil {
		s.mu.Unlock()
		<-t.laid
		return t, t.refused
	}
	if s.ended.has(spec.ID) {
		s.mu.Unlock()
		return nil, errEnded
	}
	t := s.newTask(spec)
	s.tasks[spec.ID] = t
	s.mu.Unlock()
	defer close(t.laid)
	if err := s.prepare(spec); err != nil {
		_ = os.RemoveAll(s.taskDir(spec.ID)) // the next attempt writes over it
		s.mu.Lock()
		delete(s.tasks, spec.ID)
		s.mu.Unlock()
		t.refused = err
		return nil, err
	}
	s.watcher.add(spec.ID, s.jobDir(spec.ID))
	s.wg.Go(func() { t.start(s.ctx) })
	return t, nil
}

func (s *Shim) task(w http.ResponseWriter, r *http.Request) *task {
	t := s.find(r.PathValue("id"))
	if t == nil {
		refuse(w, http.StatusNotFound, agentapi.CodeNotFound, "no such task")
	}
	return t
}

func (s *Shim) terminateTask(w http.ResponseWriter, r *http.Request) {
	var req agentapi.Terminate
	if !decode(w, r, &req) {
		return
	}
	if req.Grace < 0 || req.Grace > maxGrace {
		refuse(w, http.StatusBadRequest, agentapi.CodeInvalid, fmt.Sprintf("grace: not between 0 and %d seconds", maxGrace))
		return
	}
	t := s.findOrEnd(r.PathValue("id"))
	if t == nil {
		refuse(w, http.StatusNotFound, agentapi.CodeNotFound, "no such task")
		return
	}
	t.terminate(req)
	state, _ := t.snapshot()
	answer(w, state)
}

// findOrEnd finds a task that is to end. One that is not there does not start any more.
func (s *Shim) findOrEnd(id string) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[id]
	if t == nil && agentapi.ValidID(id) {
		s.ended.add(id)
	}
	return t
}

func (s *Shim) deleteTask(w http.ResponseWriter, r *http.Request) {
	t := s.task(w, r)
	if t == nil {
		return
	}
	if state, _ := t.snapshot(); state.State != agentapi.Terminated {
		refuse(w, http.StatusConflict, agentapi.CodeConflict, "the task has not ended")
		return
	}
	if err := s.Runtime.Remove(r.Context(), t.spec.ID); err != nil {
		refuse(w, http.StatusInternalServerError, "", err.Error())
		return
	}
	if s.gpus.Release(t.spec.ID) { // what was left of it had kept them
		defer s.tellHost() // which ends the connection that this is asked for on
	}
	if err := s.hostKeys.remove(t.spec.HostUser, t.spec.ID); err != nil { // with the task the last word of them would go
		refuse(w, http.StatusInternalServerError, "", err.Error())
		return
	}
	<-t.ended // its last state is being stored
	if err := t.erase(); err != nil {
		refuse(w, http.StatusInternalServerError, "", err.Error())
		return
	}
	s.watcher.remove(t.spec.ID)
	s.mu.Lock()
	delete(s.tasks, t.spec.ID)
	s.ended.add(t.spec.ID)
	s.mu.Unlock()
	s.sweepBlobs(time.Now())
	answer(w, struct{}{})
}

func (s *Shim) getLogs(w http.ResponseWriter, r *http.Request) {
	t := s.task(w, r)
	if t == nil {
		return
	}
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil || offset < 0 {
		refuse(w, http.StatusBadRequest, agentapi.CodeInvalid, "offset: not a number of bytes")
		return
	}
	source := agentapi.LogSource(r.URL.Query().Get("source"))
	if source != agentapi.JobLog && source != agentapi.RunnerLog {
		refuse(w, http.StatusBadRequest, agentapi.CodeInvalid, "source: neither job nor runner")
		return
	}
	f, err := runner.OpenShared(t.jobDir(), logFile(source))
	if err == nil {
		defer f.Close()
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		refuse(w, http.StatusInternalServerError, "", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = io.Copy(w, f) // the peer is gone
}

func logFile(src agentapi.LogSource) string {
	if src == agentapi.RunnerLog {
		return runner.OwnLogFile
	}
	return runner.JobLogFile
}
