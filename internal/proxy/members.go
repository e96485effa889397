package proxy

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"
)

// memberFor is how long a token that was let through is not looked up again. News come at once;
// this is for those that get lost on the way from another replica of the server.
const memberFor = 5 * time.Second

// members remember whom a project let through lately. The zero value is ready to use.
type members struct {
	mu     sync.Mutex
	passed map[pass]time.Time
	news   uint64 // counts what was forgotten
}

// pass is a token's hash, so that tokens are not kept, with a project.
type pass struct {
	token   [sha256.Size]byte
	project string
}

func (m *members) allowed(ctx context.Context, project, token string, ask func(ctx context.Context, project, token string) (bool, error)) (bool, error) {
	if token == "" {
		return false, nil
	}
	key := pass{sha256.Sum256([]byte(token)), project}
	m.mu.Lock()
	at, known := m.passed[key]
	news := m.news
	m.mu.Unlock()
	if known && time.Since(at) < memberFor {
		return true, nil
	}
	ok, err := ask(ctx, project, token)
	if err != nil || !ok {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.news != news { // they may have been about this one
		return true, nil
	}
	for key, at := range m.passed {
		if time.Since(at) >= memberFor {
			delete(m.passed, key)
		}
	}
	if m.passed == nil || len(m.passed) >= maxKnown {
		m.passed = map[pass]time.Time{}
	}
	m.passed[key] = time.Now()
	return true, nil
}

// forget drops all that is remembered.
func (m *members) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.news++
	clear(m.passed)
}
