package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/ssh"

	"dstack/internal/api"
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

// TestEventsOfSettings has a line for each change of users, projects, repos and backends, and
// none for what changes nothing.
func TestEventsOfSettings(t *testing.T) {
	s := newServer(t)
	s.clouds.endpoints["lambda"] = lambdaStub(t, new(atomic.Bool))
	s.addUser(t, "ann", "user")
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	var added api.PublicKeyInfo
	s.must(t, "/api/users/public_keys/add", map[string]string{"key": string(ssh.MarshalAuthorizedKey(key))}, &added)
	lambda := map[string]any{"type": "lambda", "creds": map[string]string{"type": "api_key", "api_key": "good"}}
	repo := func(name, token string) map[string]any {
		return map[string]any{"repo_id": "r", "repo_info": map[string]string{"repo_type": "remote", "repo_name": name},
			"repo_creds": map[string]string{"clone_url": "https://example.com/r", "oauth_token": token}}
	}
	for _, c := range []struct {
		path string
		body any
		want []string
	}{
		{"/api/users/update", map[string]any{"username": "ann", "global_role": "admin", "email": "a@example.com", "active": false},
			[]string{"User updated. Updated fields: global_role=admin, email, active=False"}},
		{"/api/users/update", map[string]any{"username": "ann", "global_role": "admin", "email": "a@example.com", "active": false},
			[]string{"User updated. Updated fields: <none>"}},
		{"/api/users/update", map[string]any{"username": "ann", "global_role": "admin", "email": "a@example.com", "active": true},
			[]string{"User updated. Updated fields: active=True"}},
		{"/api/users/public_keys/delete", map[string]any{"ids": []string{added.ID}}, []string{"Public key deleted. Fingerprint: " + added.Fingerprint}},
		{"/api/projects/main/update", map[string]any{"is_public": true}, []string{"Project updated. Updated fields: is_public=True"}},
		{"/api/projects/main/update", map[string]any{}, []string{"Project updated. Updated fields: <none>"}},
		{"/api/projects/main/update", map[string]any{"reset_templates_repo": true}, []string{"Project updated. Updated fields: <none>"}},
		{"/api/project/main/backends/create", lambda, []string{"Backend lambda created"}},
		{"/api/project/main/backends/update", lambda, []string{"Backend lambda updated"}},
		{"/api/project/main/backends/delete", map[string]any{"backends_names": []string{"lambda"}}, []string{"Backend lambda deleted"}},
		{"/api/project/main/backends/delete", map[string]any{"backends_names": []string{"lambda"}}, nil},
		{"/api/project/main/repos/init", repo("one", "x"), []string{"Repo r created"}},
		{"/api/project/main/repos/init", repo("one", "x"), nil},
		{"/api/project/main/repos/init", repo("one", "y"), []string{"Repo r updated. Updated fields: creds"}},
		{"/api/project/main/repos/init", repo("two", "y"), []string{"Repo r updated. Updated fields: info"}},
		{"/api/project/main/repos/delete", map[string]any{"repos_ids": []string{"r", "none"}}, []string{"Repo r deleted"}},
	} {
		before := eventTexts(t, s)
		s.must(t, c.path, c.body, nil)
		after := eventTexts(t, s)
		if diff := cmp.Diff(c.want, after[len(before):], cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s %v: events (-want +got):\n%s", c.path, c.body, diff)
		}
	}
	if want := "Public key added. Fingerprint: " + added.Fingerprint; !slices.Contains(eventTexts(t, s), want) {
		t.Errorf("no event %q", want)
	}
}

// eventTexts are the messages of all events, oldest first.
func eventTexts(t *testing.T, s *Server) []string {
	t.Helper()
	var list []api.Event
	s.must(t, "/api/events/list", map[string]any{"ascending": true, "limit": 100}, &list)
	var texts []string
	for _, e := range list {
		texts = append(texts, e.Message)
	}
	return texts
}
