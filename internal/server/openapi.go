package server

import (
	"net/http"
	"regexp"
	"strings"

	"dstack/internal/api"
)

// openapiHandler describes the API from the route table.
func (s *Server) openapiHandler(_ *Server, _ caller, w http.ResponseWriter, _ *http.Request) error {
	paths := map[string]map[string]any{}
	params := regexp.MustCompile(`\{(\w+)\}`)
	for _, rt := range s.routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		op := map[string]any{
			"operationId": strings.Trim(strings.NewReplacer("/", "_", "{", "", "}", "").Replace(path), "_"),
			"responses":   map[string]any{"200": map[string]any{"description": "Successful Response", "content": map[string]any{"application/json": map[string]any{}}}},
		}
		op["x-permission"] = rt.who.String()
		var list []any
		for _, m := range params.FindAllStringSubmatch(path, -1) {
			list = append(list, map[string]any{"name": m[1], "in": "path", "required": true, "schema": map[string]string{"type": "string"}})
		}
		if list != nil {
			op["parameters"] = list
		}
		if rt.who != public {
			op["security"] = []any{map[string]any{"HTTPBearer": []any{}}}
		}
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(method)] = op
	}
	encode(w, http.StatusOK, map[string]any{
		"openapi": "3.1.0", "info": map[string]string{"title": "dstack", "version": api.Version}, "paths": paths,
		"components": map[string]any{"securitySchemes": map[string]any{"HTTPBearer": map[string]string{"type": "http", "scheme": "bearer"}}},
	})
	return nil
}

// Route is one entry of the API for its description.
type Route struct{ Method, Path, Permission string }

// Routes lists the API.
func Routes() []Route {
	s := &Server{}
	var list []Route
	for _, rt := range s.routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		list = append(list, Route{method, path, rt.who.String()})
	}
	return list
}
