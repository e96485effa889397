package backend

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"
)

// maxExcerpt is how much of an answer goes into an error, in bytes.
const maxExcerpt = 1 << 10

// A StatusError is an answer that says nothing certain: a 5xx, or a status that the backend
// does not know.
type StatusError struct {
	Status int
	Body   string // an excerpt
}

func (e *StatusError) Error() string {
	if e.Body == "" {
		return fmt.Sprintf("status %d", e.Status)
	}
	return fmt.Sprintf("status %d: %s", e.Status, e.Body)
}

// Printable is a text of a provider as it may stand in a message: without what a terminal or a
// log would take for more than text.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// CheckResponse returns nil for a 2xx answer and otherwise the contract's error for its
// status: 401 and 403 ErrAuth, 404 and 410 ErrNotFound, 429 *RateLimitedError, 400, 409 and
// 422 *InvalidError, the others *StatusError. Backends handle first what their provider
// means differently. It reads the body of an error and leaves closing to the caller.
func CheckResponse(resp *http.Response) error {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxExcerpt)) // what was read is better than nothing
	body := strings.TrimSpace(Printable(string(b)))
	reason := cmp.Or(body, strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, strings.ToLower(http.StatusText(resp.StatusCode)))))
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %s", ErrAuth, reason)
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%w: %s", ErrNotFound, reason)
	case http.StatusTooManyRequests:
		return &RateLimitedError{After: RetryAfter(resp.Header, time.Now())}
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity:
		return &InvalidError{Msg: reason}
	}
	return &StatusError{resp.StatusCode, cmp.Or(body, strings.ToLower(http.StatusText(resp.StatusCode)))}
}

// ReadBody reads the body of an answer and leaves closing to the caller. One larger than
// limit bytes is an error: what a provider sends is not trusted to fit into memory.
func ReadBody(resp *http.Response, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("the answer is larger than %d bytes", limit)
	}
	return data, nil
}
