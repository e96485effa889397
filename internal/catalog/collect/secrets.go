package collect

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// secrets are what no error of a collection shows, although providers repeat what they were sent.
type secrets struct {
	mu    sync.Mutex
	texts []string
}

// minSecret is the length of what is taken for a secret, in bytes.
const minSecret = 8

// secretName is what variables are called that have secrets, and not names of accounts or, at their
// end, of files.
var secretName = regexp.MustCompile("KEY|SECRET|TOKEN")

// hide adds a secret, as it is and as URLs, forms and JSON have it.
func (s *secrets) hide(secret string) {
	if len(secret) < minSecret {
		return
	}
	quoted, _ := json.Marshal(secret) // of a text there is no error
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), string(quoted[1 : len(quoted)-1])} {
		if !slices.Contains(s.texts, text) {
			s.texts = append(s.texts, text)
		}
	}
}

// hush takes secrets out of what somebody repeats.
func (s *secrets) hush(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range s.texts {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}

// hushed is an error without secrets, also where a backend has asked with a client of its own; nil for nil.
func (s *secrets) hushed(err error) error {
	if err == nil {
		return nil
	}
	if text := s.hush(err.Error()); text != err.Error() {
		return &hushedError{text, err}
	}
	return err
}

// hushedError shows a text instead of that of the error.
type hushedError struct {
	text string
	err  error
}

func (e *hushedError) Error() string { return e.text }
func (e *hushedError) Unwrap() error { return e.err }
