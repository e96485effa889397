package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
)

// TestNoEvents has a server that keeps no audit log.
func TestNoEvents(t *testing.T) {
	s, err := New(context.Background(), Config{Dir: t.TempDir(), NoFile: true, Token: adminToken, EventTTL: -1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.shut(t) })
	s.must(t, "/api/project/main/secrets/create_or_update", map[string]string{"name": "a", "value": "b"}, nil)
	var events []json.RawMessage
	s.must(t, "/api/events/list", map[string]any{}, &events)
	if len(events) > 0 {
		t.Errorf("kept %s", events)
	}
}
