package server

import (
	_ "embed"
	"io"
	"net/http"
)

// docsHTML shows /openapi.json. It loads nothing from elsewhere.
//
//go:embed docs.html
var docsHTML string

func docsPage(_ *Server, _ caller, w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'")
	_, _ = io.WriteString(w, docsHTML) // the client is gone
	return nil
}
