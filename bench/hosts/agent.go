package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
)

// agent answers as the agent of a host would. Its jobs print a line, last as long as they
// sleep, and end well.
type agent struct {
	info agentapi.HostInfo
	job  time.Duration

	mu      sync.Mutex
	tasks   map[string]*agentapi.Task
	pending []agentapi.Event // not acknowledged
	seq     int64
	started int           // tasks
	streams int           // that are open
	news    chan struct{} // closed and replaced when pending grows
}

func newAgent(o options, n int) *agent {
	return &agent{
		job: o.Job, tasks: map[string]*agentapi.Task{}, news: make(chan struct{}),
		info: agentapi.HostInfo{
			Protocol: agentapi.Version, Version: "bench", Hash: o.Hash, BootID: "boot", InstanceKey: "host-" + strconv.Itoa(n),
			Runtime: "docker", RuntimeVersion: "28.0.0", Arch: "x86", Hostname: "host-" + strconv.Itoa(n), CPUs: 64, Memory: 512 << 30, DiskSize: 2 << 40,
			Addresses: []string{Addr(n).String() + "/8"}, DefaultAddress: Addr(n).String(), GPUVendor: "nvidia", Warnings: []string{},
			GPUs: slices.Repeat([]agentapi.GPU{{Name: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559, Driver: "570.86.15"}}, 8),
		},
	}
}

func (a *agent) now() agentapi.HostInfo {
	info := a.info
	info.UnixMicros = time.Now().UnixMicro()
	return info
}

func (a *agent) counts() (streams, tasks int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.streams, a.started
}

// serve answers the requests of one connection. It does not use [http.Server], which takes
// several times the memory and would be counted as the host's.
func (a *agent) serve(ctx context.Context, c ssh.Channel) {
	defer c.Close()
	r := newReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return // the connection ended
		}
		if req.Method == http.MethodGet && req.URL.Path == "/v1/events" {
			_ = a.events(ctx, c) // the connection ended
			return
		}
		status, body := a.answer(req)
		_, _ = io.Copy(io.Discard, req.Body) // what is left of it
		if err := write(c, status, body); err != nil {
			return
		}
	}
}

func write(w io.Writer, status int, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode an answer: %w", err)
	}
	_, err = fmt.Fprintf(w, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, http.StatusText(status), len(data), data)
	return err
}

// answer carries out one request.
func (a *agent) answer(req *http.Request) (int, any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	path := strings.Split(strings.TrimPrefix(req.URL.Path, "/v1/"), "/")
	switch {
	case path[0] == "host":
		return http.StatusOK, a.now()
	case path[0] == "events":
		return a.ack(req)
	case path[0] == "blobs":
		return http.StatusOK, struct{}{}
	case path[0] != "tasks":
		return http.StatusNotFound, agentapi.Error{Code: agentapi.CodeNotFound, Message: "no such path"}
	case len(path) == 1:
		list := []agentapi.Task{}
		for _, t := range slices.Sorted(maps.Keys(a.tasks)) {
			list = append(list, *a.tasks[t])
		}
		return http.StatusOK, list
	case req.Method == http.MethodPut:
		return a.put(req)
	}
	t := a.tasks[path[1]]
	switch {
	case t == nil:
		return http.StatusNotFound, agentapi.Error{Code: agentapi.CodeNotFound, Message: "no such task"}
	case req.Method == http.MethodDelete:
		delete(a.tasks, t.ID)
		return http.StatusOK, struct{}{}
	case len(path) == 3 && path[2] == "terminate":
		var how agentapi.Terminate
		if err := json.NewDecoder(req.Body).Decode(&how); err != nil {
			return http.StatusBadRequest, agentapi.Error{Code: agentapi.CodeInvalid, Message: err.Error()}
		}
		a.end(t, how.Reason, nil)
		return http.StatusOK, *t
	}
	return http.StatusNotFound, agentapi.Error{Code: agentapi.CodeNotFound, Message: "no such path"}
}

// The methods below want the mutex held.

func (a *agent) ack(req *http.Request) (int, any) {
	var ack agentapi.Ack
	if err := json.NewDecoder(req.Body).Decode(&ack); err != nil {
		return http.StatusBadRequest, agentapi.Error{Code: agentapi.CodeInvalid, Message: err.Error()}
	}
	a.pending = slices.DeleteFunc(a.pending, func(e agentapi.Event) bool { return e.Seq <= ack.Seq && !slices.Contains(ack.Except, e.TaskID) })
	return http.StatusOK, struct{}{}
}

var sleep = regexp.MustCompile(`sleep ([0-9.]+)`)

// put starts a task, or returns the one that there is.
func (a *agent) put(req *http.Request) (int, any) {
	var spec agentapi.TaskSpec
	if err := json.NewDecoder(req.Body).Decode(&spec); err != nil {
		return http.StatusBadRequest, agentapi.Error{Code: agentapi.CodeInvalid, Message: err.Error()}
	}
	if t := a.tasks[spec.ID]; t != nil {
		return http.StatusOK, *t
	}
	lasts := a.job
	if m := sleep.FindStringSubmatch(strings.Join(spec.Job.Command, " ")); m != nil {
		seconds, _ := strconv.ParseFloat(m[1], 64) // not a number: at once
		lasts = time.Duration(seconds * float64(time.Second))
	}
	t := &agentapi.Task{ID: spec.ID, Name: spec.Name, State: agentapi.Running, Started: true, Username: "root", WorkingDir: "/",
		Ports: map[int]int{agentapi.RunnerSSHPort: agentapi.RunnerSSHPort}, CreatedAt: time.Now().UnixMicro()}
	a.tasks[t.ID] = t
	a.started++
	a.tell(agentapi.Event{Kind: agentapi.TaskEvent, TaskID: t.ID, Task: t})
	line := []byte("hello\n")
	a.tell(agentapi.Event{Kind: agentapi.LogEvent, TaskID: t.ID, Log: &agentapi.LogData{Source: agentapi.JobLog, Data: line}})
	t.JobLog = int64(len(line))
	time.AfterFunc(lasts, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		zero := 0
		a.end(t, agentapi.DoneByRunner, &zero)
	})
	return http.StatusOK, *t
}

func (a *agent) end(t *agentapi.Task, reason string, exit *int) {
	if t.State == agentapi.Terminated {
		return
	}
	t.State, t.Reason, t.ExitStatus, t.FinishedAt = agentapi.Terminated, reason, exit, time.Now().UnixMicro()
	a.tell(agentapi.Event{Kind: agentapi.TaskEvent, TaskID: t.ID, Task: t})
}

func (a *agent) tell(e agentapi.Event) {
	a.seq++
	e.Seq, e.Micros = a.seq, time.Now().UnixMicro()
	if e.Task != nil {
		c := *e.Task
		e.Task = &c
	}
	a.pending = append(a.pending, e)
	close(a.news)
	a.news = make(chan struct{})
}

// after returns the events behind a number, and what tells of more.
func (a *agent) after(seq int64) ([]agentapi.Event, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.pending, func(e agentapi.Event) bool { return e.Seq > seq })
	if i < 0 {
		return nil, a.news
	}
	return slices.Clone(a.pending[i:]), a.news
}

func (a *agent) stream(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams += n
}

// events is the held-open answer: what is not acknowledged, what is new, and heartbeats.
func (a *agent) events(ctx context.Context, c ssh.Channel) error {
	a.stream(1)
	defer a.stream(-1)
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
		return err
	}
	heartbeat := time.NewTicker(agentapi.HeartbeatEvery)
	defer heartbeat.Stop()
	var seq int64
	batch := []agentapi.Event{{Kind: agentapi.HeartbeatEvent, Micros: time.Now().UnixMicro()}}
	for {
		if err := chunk(c, batch); err != nil {
			return err
		}
		var news <-chan struct{}
		if batch, news = a.after(seq); batch != nil {
			seq = batch[len(batch)-1].Seq
			continue
		}
		select {
		case <-news:
		case <-heartbeat.C:
			batch = []agentapi.Event{{Kind: agentapi.HeartbeatEvent, Micros: time.Now().UnixMicro()}}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// chunk writes events as one chunk of the body; none is no chunk, which would be the end.
func chunk(w io.Writer, events []agentapi.Event) error {
	if len(events) == 0 {
		return nil
	}
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	for _, e := range events {
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	b := bufio.NewWriterSize(w, lines.Len()+16)
	fmt.Fprintf(b, "%x\r\n%s\r\n", lines.Len(), lines.Bytes())
	return b.Flush()
}
