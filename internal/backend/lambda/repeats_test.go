package lambda

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"dstack/internal/backend"
	"dstack/internal/backend/backendtest/openapi"
	"dstack/internal/offer"
)

// shaky loses the first requests.
type shaky struct {
	direct
	lost atomic.Int32 // so many more
}

func (s *shaky) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.lost.Add(-1) >= 0 {
		return nil, errors.New("connection reset")
	}
	return s.direct.RoundTrip(r)
}

// What is sent again takes a turn like any request: else it takes that of another, which Lambda
// throttles, and which is sent again too.
func TestRepeatsTakeTurns(t *testing.T) {
	spec := openapi.Load(t, "testdata/openapi.json.gz")
	synctest.Test(t, func(t *testing.T) {
		a := newAccount()
		base := &shaky{direct: direct{a.serve(t, spec)}}
		base.lost.Store(2)
		b := openAt(t, goodKey, "", backend.NewTransport(backend.TransportConfig{Base: base, Log: quiet(), Version: "test"}), quiet())
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() { _, errs[0] = b.Offers(t.Context(), offer.Query{}) })
		wg.Go(func() { _, errs[1] = b.List(t.Context(), "s1") })
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if a.throttled > 0 {
			t.Errorf("Lambda had to throttle %d requests", a.throttled)
		}
	})
}
