package nebiusclient

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	iampb "dstack/internal/nebiusclient/pb/nebius/iam/v1"
)

const (
	// tokenTimeout bounds one request for a token, of which there are at most tokenTries: callers wait.
	tokenTimeout = 5 * time.Second
	tokenTries   = 3
	// maxTokenLife bounds for how long a token is trusted, whatever is said with it.
	maxTokenLife = 24 * time.Hour
)

// tokens has the access token of a service account. It gets one for all who want one, and a new one
// when nine tenths of its life are over.
type tokens struct {
	credentials Credentials
	exchange    func(context.Context, *iampb.ExchangeTokenRequest) (*iampb.CreateTokenResponse, error)

	mu      sync.Mutex
	token   string
	renewAt time.Time
	expires time.Time
	request *tokenRequest // nil while none is under way
	running sync.WaitGroup
	closed  chan struct{} // closed when nobody waits any more
}

// tokenRequest is a request for a token that some may wait for.
type tokenRequest struct {
	done  chan struct{} // closed when the others are set
	token string
	err   error
}

// get is a token for one call.
func (t *tokens) get(ctx context.Context) (string, error) {
	if t.credentials.Token != "" {
		return t.credentials.Token, nil
	}
	now := time.Now()
	t.mu.Lock()
	if now.Before(t.renewAt) {
		defer t.mu.Unlock()
		return t.token, nil
	}
	r := t.request
	if r == nil {
		r = &tokenRequest{done: make(chan struct{})}
		t.request = r
		t.running.Go(func() { t.renew(r) })
	}
	t.mu.Unlock()
	select {
	case <-r.done:
		return r.token, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// drop forgets a token that was not taken.
func (t *tokens) drop(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.token, t.renewAt, t.expires = "", time.Time{}, time.Time{}
	}
}

// renew gets a token. While the old one is good, it does when there is no answer. It runs on the
// context of nobody who waits: others wait too.
func (t *tokens) renew(r *tokenRequest) {
	began := time.Now()
	answer, err := t.ask()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		life := time.Duration(min(max(answer.ExpiresIn, 0), int64(maxTokenLife/time.Second))) * time.Second
		t.token, t.renewAt, t.expires = answer.AccessToken, began.Add(life*9/10), began.Add(life)
		r.token = t.token
	case t.token != "" && time.Now().Before(t.expires) && !errors.Is(err, ErrRefused):
		r.token = t.token
	default:
		r.err = err
	}
	t.request = nil
	close(r.done)
}

// ask exchanges an assertion for a token (RFC 8693).
func (t *tokens) ask() (*iampb.CreateTokenResponse, error) {
	for n := 1; ; n++ {
		answer, err := t.once()
		e, answered := errors.AsType[*Error](err)
		if n == tokenTries || !answered || !e.repeatable() {
			return answer, err
		}
		select {
		case <-time.After(pause(n)):
		case <-t.closed:
			return nil, err
		}
	}
}

func (t *tokens) once() (*iampb.CreateTokenResponse, error) {
	assertion, err := t.credentials.assertion(time.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), tokenTimeout)
	defer cancel()
	answer, err := t.exchange(ctx, &iampb.ExchangeTokenRequest{
		GrantType:          "urn:ietf:params:oauth:grant-type:token-exchange",
		RequestedTokenType: "urn:ietf:params:oauth:token-type:access_token",
		SubjectToken:       assertion,
		SubjectTokenType:   "urn:ietf:params:oauth:token-type:jwt",
	})
	if err != nil {
		e := newError("get an access token", inTime(ctx, err), assertion)
		e.token = true
		e.refused = e.refused || e.Code() == codes.InvalidArgument || e.Code() == codes.NotFound
		return nil, e
	}
	if answer.TokenType != "Bearer" || !isToken(answer.AccessToken) {
		return nil, errors.New("get an access token: the answer has no bearer token")
	}
	return answer, nil
}
