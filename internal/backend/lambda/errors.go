package lambda

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"dstack/internal/backend"
)

// Lambda's error codes by what they prove (API description 1.10.0). A code that is in none
// of the sets, such as those of upstream providers ("provider/…"), proves nothing.
var (
	capacityCodes = []string{"instance-operations/launch/insufficient-capacity"}
	quotaCodes    = []string{"global/quota-exceeded"}
	// The account cannot do anything until a person has looked at it.
	authCodes = []string{"global/invalid-api-key", "global/account-inactive", "global/forbidden", "global/invalid-address"}
	// Only this code says that an instance does not exist; "global/not-found" says that a path
	// does not, which a wrong endpoint says too.
	absentCodes  = []string{"global/object-does-not-exist"}
	invalidCodes = []string{"global/invalid-parameters", "instance-operations/launch/file-system-in-wrong-region", "global/duplicate", "global/conflict"}
)

// apiError is an answer of Lambda that is no success.
type apiError struct {
	Status  int    // of HTTP
	Code    string // Lambda's word, "" when the answer has none
	Message string // for people
	means   error  // the contract's error
}

func (e *apiError) Error() string {
	what := e.Code
	if what == "" {
		what = fmt.Sprintf("status %d", e.Status)
	}
	if e.Message == "" {
		return "lambda: " + what
	}
	return fmt.Sprintf("lambda: %s (%s)", e.Message, what)
}

// Unwrap returns what the answer means in the terms of the contract.
func (e *apiError) Unwrap() error { return e.means }

// maxExplanation bounds the texts of an error, in bytes.
const maxExplanation = 1 << 10

// readError makes an error of an answer that is no success.
func readError(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what was read is better than nothing
	var in struct {
		Error struct {
			Code       string `json:"code"`
			Message    string `json:"message"`
			Suggestion string `json:"suggestion"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &in) // anything else than Lambda's form has no code
	e := &apiError{Status: resp.StatusCode, Code: printable(in.Error.Code), Message: printable(in.Error.Message + " " + in.Error.Suggestion)}
	e.means = meaning(e, resp.Header)
	return e
}

// printable is a text of Lambda's, or of what is in front of it, as it may stand in an error.
func printable(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(backend.Printable(text[:min(len(text), maxExplanation)]))
}

// meaning is the one table from Lambda's answers to the contract's errors. A code counts
// only in a 4xx: whatever a 5xx says, the work may have been done.
func meaning(e *apiError, h http.Header) error {
	switch {
	case e.Status == http.StatusTooManyRequests:
		return &backend.RateLimitedError{After: backend.RetryAfter(h, time.Now())}
	case e.Status < 400 || e.Status >= 500:
		return &backend.StatusError{Status: e.Status, Body: e.Message}
	case slices.Contains(capacityCodes, e.Code):
		return backend.ErrNoCapacity
	case slices.Contains(quotaCodes, e.Code):
		return backend.ErrQuota
	case slices.Contains(authCodes, e.Code), e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden:
		return backend.ErrAuth
	case slices.Contains(absentCodes, e.Code):
		return backend.ErrNotFound
	case slices.Contains(invalidCodes, e.Code):
		return &backend.InvalidError{Msg: e.Message}
	}
	return &backend.StatusError{Status: e.Status, Body: e.Message}
}
