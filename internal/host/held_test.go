package host

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/agentapi"
)

// taker is a sink that takes all, and an agent that is told so.
type taker struct {
	Sink
	got []agentapi.Event
	ack agentapi.Ack
}

func (s *taker) Handle(_ context.Context, _ string, events []agentapi.Event) error {
	s.got = append(s.got, events...)
	return nil
}

func (s *taker) RoundTrip(r *http.Request) (*http.Response, error) {
	err := json.NewDecoder(r.Body).Decode(&s.ack)
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, err
}

// Of a task that is held its log and its end wait, not what else is told of it.
func TestHandleHeld(t *testing.T) {
	const id = "0a2a8a3c-0000-4000-8000-000000000001"
	s := &taker{}
	c := &conn{pool: &Pool{Config: Config{Sink: s}}, target: Target{ID: "h"}}
	state := func(seq int64, to agentapi.State) agentapi.Event {
		return agentapi.Event{Kind: agentapi.TaskEvent, Seq: seq, Micros: time.Now().UnixMicro(), TaskID: id, Task: &agentapi.Task{ID: id, State: to}}
	}
	events := []agentapi.Event{
		{Kind: agentapi.LogEvent, Seq: 1, Micros: time.Now().UnixMicro(), TaskID: id, Log: &agentapi.LogData{Source: agentapi.JobLog, Data: []byte("hello")}},
		state(2, agentapi.Running), state(3, agentapi.Terminated),
	}
	h := held{tasks: map[string]bool{id: true}}
	if err := c.handle(t.Context(), agentapi.NewClientOver(s), events, &h); err != nil {
		t.Fatal(err)
	}
	if len(s.got) != 1 || s.got[0].Seq != 2 {
		t.Errorf("the sink gets %+v, want that the task runs", s.got)
	}
	if s.ack.Seq != 3 || !slices.Equal(s.ack.Except, []string{id}) || h.wasted != 5 {
		t.Errorf("%+v is acknowledged, %d bytes were told for nothing; want all but the task's, and 5", s.ack, h.wasted)
	}
}
