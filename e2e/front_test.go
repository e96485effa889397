//go:build e2e

package e2e

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// front stands between a client and its server and tells of requests to one path. Its functions
// are optional.
type front struct {
	path string // the end of it
	// sent is called when the server has a request, before there is an answer.
	sent func()
	// answered is called when the server has answered. The client never learns that.
	answered func()
}

// through lets the client reach the server through a front until the test ends.
func (w *world) through(t *testing.T, f front) {
	t.Helper()
	server, err := url.Parse(w.url())
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			if f.sent != nil && strings.HasSuffix(r.In.URL.Path, f.path) {
				trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { f.sent() }}
				r.Out = r.Out.WithContext(httptrace.WithClientTrace(r.Out.Context(), trace))
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if f.answered != nil && strings.HasSuffix(r.Request.URL.Path, f.path) {
				f.answered()
				return errors.New("the answer is lost")
			}
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as a server that dies
	})
	t.Cleanup(func() {
		srv.Close()
		w.login()
	})
	w.must("project", "add", "--name", "main", "--url", srv.URL, "--token", w.token, "-y")
}
