package fake_test

import (
	"net/http"
	"testing"

	"dstack/internal/backend"
	"dstack/internal/backend/backendtest"
	"dstack/internal/backend/fake"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(*testing.T, http.RoundTripper) backendtest.Subject {
		c := fake.New(fake.Config{Offers: fake.SomeOffers()})
		return backendtest.Subject{
			Backend: c,
			Foreign: func(*testing.T) backend.Ref {
				return backend.Ref{Region: "north", ID: c.Plant("north", 1, map[string]string{"team": "others"})}
			},
		}
	})
}
