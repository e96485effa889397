package collect

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"dstack/internal/backend"
	"dstack/internal/catalog/pricelist"
)

const (
	// maxAnswer bounds one answer, in bytes, and maxItems its values, which take memory also where they
	// are short. See [answerSize] for sources that need more, or ask much at a time.
	maxAnswer = 16 << 20
	maxItems  = 300_000
	// maxPages bounds a list that comes in pages.
	maxPages = 1000
)

// session is the connection to one provider during one collection.
type session struct {
	http  *http.Client
	base  string
	env   func(string) string
	known *pricelist.List
	now   time.Time

	hasAccount bool         // all credentials of [Source.May] are set
	guarded    *http.Client // takes credentials to no other host
	endpoint   string       // which the environment sets for all addresses, "" for none
	secrets    *secrets

	most     answerSize
	received *atomic.Int64 // bytes of answers
	dial     func(ctx context.Context, address string) (net.Conn, error)
}

// answerSize is what one answer may have. Sources that ask many things at a time have little room for
// each; one that is not what it should be may take ten times its size in memory.
type answerSize struct {
	bytes  int64
	values int
}

// session is that of a collection. endpoint replaces the provider's address unless it is empty.
func (s Source) session(c Config, endpoint string, now time.Time) *session {
	guarded := &http.Client{Transport: c.Transport, CheckRedirect: s.stay}
	n := &session{
		http: guarded, guarded: guarded, base: cmp.Or(endpoint, s.base), endpoint: endpoint, env: c.Credentials, known: c.Known, now: now, received: c.Received, dial: c.Dial,
		most:       answerSize{cmp.Or(s.most.bytes, maxAnswer), cmp.Or(s.most.values, maxItems)},
		hasAccount: len(s.May) > 0 && len(s.Lacking(c.Credentials)) == 0, secrets: &secrets{},
	}
	if len(s.Needs) == 0 {
		n.http = &http.Client{Transport: c.Transport, CheckRedirect: follow}
	}
	for _, name := range slices.Concat(s.Needs, s.Instead, s.May, s.With) {
		if secretName.MatchString(name) && !strings.HasSuffix(name, "_FILE") {
			n.secrets.hide(c.Credentials(name))
		}
	}
	return n
}

// account is the session with which is asked what only accounts are told, at another address.
func (s *session) account(base string) *session {
	a := *s
	a.http, a.base = s.guarded, cmp.Or(s.endpoint, base)
	return &a
}

// maxRedirects bounds how often a list may be elsewhere.
const maxRedirects = 5

// follow lets a public list be elsewhere.
func follow(_ *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("it sent us elsewhere more than %d times", maxRedirects)
	}
	return nil
}

// stay keeps credentials from other hosts.
func (s Source) stay(req *http.Request, via []*http.Request) error {
	if req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
		return fmt.Errorf("it sends us to %s, which gets no credentials: set %s to go there", printable(req.URL.Host), backend.EndpointVariable(s.Provider))
	}
	return follow(req, via)
}

// get reads a JSON document.
func (s *session) get(ctx context.Context, path string, header http.Header, into any) error {
	return s.call(ctx, http.MethodGet, path, header, nil, into)
}

// post asks a question that is too long for a URL. It changes nothing at the provider.
func (s *session) post(ctx context.Context, path string, header http.Header, question, into any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode the question: %w", err)
	}
	return s.call(ctx, http.MethodPost, path, header, body, into)
}

func (s *session) call(ctx context.Context, method, path string, header http.Header, body []byte, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("no answer in %v", answerLimit))
	defer cancel()
	resp, err := s.send(ctx, method, path, header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := backend.ReadBody(resp, s.most.bytes)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, plain(path), err)
	}
	if n := items(data); n > s.most.values {
		return fmt.Errorf("%s %s: %w: it lists more than %d things", method, plain(path), errStrange, s.most.values)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s %s: %w: %w", method, plain(path), errStrange, err)
	}
	return nil
}

// items counts what follows something else in the lists and objects of a JSON document, of
// whatever else the memory that its values take can be many times its size. What is no JSON
// is for the decoder to refuse.
func items(data []byte) int {
	n := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case ',':
			n++
		case '"':
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		}
	}
	return n
}

// plain is a path without its parameters, which can be long.
func plain(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
}

// stream reads a document of any size with read. It gives up when nothing comes for long.
func (s *session) stream(ctx context.Context, path string, header http.Header, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("nothing came for %v", stallLimit)) })
	defer stalled.Stop()
	resp, err := s.send(ctx, http.MethodGet, path, header, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = read(heard{resp.Body, func(int) { stalled.Reset(stallLimit) }})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// heard is a body that tells how many bytes come.
type heard struct {
	io.ReadCloser
	tell func(n int)
}

// Read implements io.Reader.
func (h heard) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	if n > 0 {
		h.tell(n)
	}
	return n, err
}

// send returns an answer that is in order; the caller closes it.
func (s *session) send(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, plain(path), err)
	}
	if header != nil {
		req.Header = header.Clone()
	}
	req.Header.Set("Accept", "application/json, */*")
	if body != nil {
		if req.Header.Get("Content-Type") == "" {
			req.Header.Set("Content-Type", "application/json")
		}
		req.Header.Set("Idempotency-Key", uuid.NewString()) // so that the transport may repeat it
	}
	resp, err := s.do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, plain(path), err)
	}
	return resp, nil
}

// do sends a request and returns an answer that is in order; the caller closes it.
func (s *session) do(req *http.Request) (*http.Response, error) {
	resp, err := s.http.Do(req)
	if asked, ok := errors.AsType[*url.Error](err); ok {
		err = asked.Err // the callers say what was asked for
	}
	if err != nil {
		return nil, err
	}
	resp.Body = heard{resp.Body, func(n int) { s.received.Add(int64(n)) }}
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		defer resp.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxSaid)) // what was read is better than nothing
		resp.Body = io.NopCloser(strings.NewReader(oneLine(s.secrets.hush(string(said)))))
		return nil, backend.CheckResponse(resp)
	}
	return resp, nil
}

// maxSaid bounds what is read of an error, in bytes.
const maxSaid = 4 << 10

// oneLine is the beginning of what an error says, which can be a whole page.
func oneLine(text string) string { return printable(strings.Join(strings.Fields(text), " ")) }

// token is what a form gets that lets somebody in (RFC 6749).
func (s *session) token(ctx context.Context, path string, form url.Values) (string, error) {
	var answer tokenAnswer
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	if err := s.call(ctx, http.MethodPost, path, header, []byte(form.Encode()), &answer); err != nil {
		return "", err
	}
	return s.accept(answer)
}

// tokenAnswer is what such a form gets.
type tokenAnswer struct {
	Token string `json:"access_token"`
}

// accept takes a token that can be sent, which no error shows from then on.
func (s *session) accept(a tokenAnswer) (string, error) {
	if a.Token == "" || strings.ContainsFunc(a.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%w: there is no token", errStrange)
	}
	s.secrets.hide(a.Token)
	return a.Token, nil
}

// bearer is the header of most APIs.
func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
