package lambda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
)

// What Lambda says, or who is in front of it, is stored and shown: it becomes text.
func TestExplanation(t *testing.T) {
	body := `{"error": {"code": "a\u0000b", "message": "why\u0000\u001b[2J", "suggestion": "do this"}}`
	err := readError(&http.Response{StatusCode: 400, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))})
	if want := "lambda: why  [2J do this (a b)"; err.Error() != want {
		t.Errorf("the error is %q, want %q", err, want)
	}
}

// An id that no database could store is no answer.
func TestIDs(t *testing.T) {
	for name, tt := range map[string]struct {
		body string
		ask  func(ctx context.Context, c *client) error
	}{
		"listed": {`{"data": [{"id": "a\u0000", "status": "active", "region": {"name": "r\u0000"}}]}`, func(ctx context.Context, c *client) error {
			list, err := c.instances(ctx)
			return cmp.Or(err, none(list[0]))
		}},
		"shown": {`{"data": {"id": "a\u0000", "status": "active", "region": {"name": "r"}}}`, func(ctx context.Context, c *client) error {
			_, err := c.instance(ctx, "a\u0000")
			return err
		}},
		"shown in a region": {`{"data": {"id": "a", "status": "active", "region": {"name": "r\u0000"}}}`, func(ctx context.Context, c *client) error {
			i, err := c.instance(ctx, "a")
			i.ID = ""
			return cmp.Or(err, none(i))
		}},
		"launched": {`{"data": {"instance_ids": ["a\u0000"]}}`, func(ctx context.Context, c *client) error {
			_, err := c.launch(ctx, launch{})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := openAt(t, goodKey, "", direct{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, tt.body) // a recorder takes everything
				})}, quiet()).(*lambda)
				if err := tt.ask(t.Context(), b.api); err == nil || backend.Refused(err) {
					t.Errorf("the answer means %v, want that it is none", err)
				}
			})
		})
	}
}

// none is an error for an instance without id and region.
func none(i instance) error {
	if i.ID == "" && i.Region.Name == "" {
		return errors.New("it has neither id nor region")
	}
	return nil
}

func TestMeaning(t *testing.T) {
	invalid, unclear, limited := errors.New("an *InvalidError"), errors.New("a *StatusError"), errors.New("a *RateLimitedError")
	for _, tt := range []struct {
		status int
		code   string // "" sends a page that is not Lambda's
		want   error
	}{
		{400, "instance-operations/launch/insufficient-capacity", backend.ErrNoCapacity},
		{400, "global/quota-exceeded", backend.ErrQuota},
		{401, "global/invalid-api-key", backend.ErrAuth},
		{403, "global/account-inactive", backend.ErrAuth},
		{403, "global/forbidden", backend.ErrAuth},
		{403, "global/invalid-address", backend.ErrAuth},
		{401, "", backend.ErrAuth},
		{403, "", backend.ErrAuth},
		{404, "global/object-does-not-exist", backend.ErrNotFound},
		{400, "global/object-does-not-exist", backend.ErrNotFound},
		{404, "global/not-found", unclear}, // the path, not the instance
		{404, "", unclear},
		{400, "global/invalid-parameters", invalid},
		{409, "global/conflict", invalid},
		{409, "global/duplicate", invalid},
		{400, "instance-operations/launch/file-system-in-wrong-region", invalid},
		{400, "provider/internal-unavailable", unclear},
		{400, "global/something-new", unclear},
		{400, "", unclear},
		{429, "", limited},
		{429, "global/quota-exceeded", limited},
		{500, "global/internal-error", unclear},
		{500, "instance-operations/launch/insufficient-capacity", unclear},
		{503, "global/object-does-not-exist", unclear},
		{302, "", unclear},
	} {
		body := "<html>not Lambda</html>"
		if tt.code != "" {
			body = fmt.Sprintf(`{"error": {"code": %q, "message": "why", "suggestion": "do this"}}`, tt.code)
		}
		err := readError(&http.Response{StatusCode: tt.status, Header: http.Header{"Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader(body))})
		_, isInvalid := errors.AsType[*backend.InvalidError](err)
		_, isUnclear := errors.AsType[*backend.StatusError](err)
		limit, isLimited := errors.AsType[*backend.RateLimitedError](err)
		ok := errors.Is(err, tt.want)
		switch tt.want {
		case invalid:
			ok = isInvalid
		case unclear:
			ok = isUnclear && !backend.Refused(err) && !errors.Is(err, backend.ErrNotFound)
		case limited:
			ok = isLimited && limit.After == 7*time.Second
		}
		if !ok {
			t.Errorf("%d with %q = %v, want %v", tt.status, tt.code, err, tt.want)
		}
		if tt.code != "" && !strings.Contains(err.Error(), "why do this") {
			t.Errorf("%d with %q: the text is %q, without Lambda's", tt.status, tt.code, err)
		}
	}
}
