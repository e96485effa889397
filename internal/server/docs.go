package server

import (
	_ "embed"
	"io"
	"net/http"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
)

// docsHTML shows /openapi.json. It loads nothing from elsewhere.
//
//go:embed docs.html
var docsHTML string

// homeHTML tells who opens the server's address in a browser what it is.
//
//go:embed home.html
var homeHTML string

// schemaFile serves the JSON Schemas of configurations, so that editors can load them.
func schemaFile(_ *Server, _ caller, w http.ResponseWriter, r *http.Request) error {
	kind, _ := strings.CutSuffix(r.PathValue("file"), ".json")
	schema, err := config.SchemaOf(kind)
	if err != nil {
		return &api.Error{Kind: api.KindNotFound, Msg: err.Error()}
	}
	w.Header().Set("Access-Control-Allow-Origin", "*") // it is public, and editors run in browsers
	encode(w, http.StatusOK, schema)
	return nil
}

// page serves one of the two pages.
func page(html string) handler {
	return func(_ *Server, _ caller, w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'")
		_, _ = io.WriteString(w, html) // the client is gone
		return nil
	}
}
