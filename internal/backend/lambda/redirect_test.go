package lambda

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestKeyStays has the API send us elsewhere: the key does not go there.
func TestKeyStays(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("somebody else was asked")
	}))
	defer elsewhere.Close()
	api := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer api.Close()
	c := Config{}
	c.Creds.APIKey = "key"
	if _, err := newClient(c, api.URL, http.DefaultTransport).types(t.Context()); err == nil {
		t.Error("a redirect counts as an answer")
	}
}
