package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"dstack/internal/api"
)

// openapiHandler serves the description of the API, which anybody may ask for: it is made once,
// when the first does.
func (s *Server) openapiHandler() handler {
	doc := sync.OnceValues(func() (json.RawMessage, error) { return json.Marshal(describe(s.routes())) })
	return func(_ *Server, _ caller, w http.ResponseWriter, _ *http.Request) error {
		data, err := doc()
		if err != nil {
			return fmt.Errorf("describe the API: %w", err)
		}
		encode(w, http.StatusOK, data)
		return nil
	}
}

// describe is the OpenAPI document of routes.
func describe(routes []route) map[string]any {
	schemas := newSchemas()
	paths := map[string]map[string]any{}
	for _, rt := range routes {
		method, path := rt.split()
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(method)] = rt.operation(schemas)
	}
	return map[string]any{
		"openapi": "3.1.0", "info": map[string]any{"title": "dstack", "version": api.Version}, "paths": paths,
		"components": map[string]any{
			"schemas":         schemas.components(),
			"securitySchemes": map[string]any{"HTTPBearer": map[string]any{"type": "http", "scheme": "bearer"}},
		},
	}
}

// split is the method and the path of a route.
func (rt route) split() (method, path string) {
	method, path, _ = strings.Cut(rt.pattern, " ")
	return method, strings.Replace(strings.TrimSuffix(path, "{$}"), "...}", "}", 1)
}

// pathParameters are the names in the route's path.
func (rt route) pathParameters() []string {
	var names []string
	_, path := rt.split()
	for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
		names = append(names, m[1])
	}
	return names
}

func (rt route) inProject() bool { return slices.Contains(rt.pathParameters(), "project") }

// permission is the name of who may call the route.
func (rt route) permission() string {
	if rt.proxy { // which checks that itself
		return projectMember.String()
	}
	return rt.who.String()
}

// operation describes one route.
func (rt route) operation(schemas *schemas) map[string]any {
	method, path := rt.split()
	id := strings.Trim(strings.NewReplacer("/", "_", "{", "", "}", "", ".", "_").Replace(path), "_")
	if rt.foreign { // there are several for one path
		id += "_" + strings.ToLower(method)
	}
	op := map[string]any{
		"operationId":  id,
		"x-permission": rt.permission(),
		"responses":    rt.responses(schemas),
	}
	var list []any
	for _, name := range rt.pathParameters() {
		list = append(list, map[string]any{"name": name, "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
	}
	if rt.query != nil {
		list = append(list, schemas.parameters(rt.query)...)
	}
	if list != nil {
		op["parameters"] = list
	}
	if rt.hasBody() {
		op["requestBody"] = rt.requestBody(schemas)
	}
	if rt.who != public || rt.proxy {
		op["security"] = []any{map[string]any{"HTTPBearer": []any{}}}
	}
	return op
}

func (rt route) requestBody(schemas *schemas) map[string]any {
	if rt.in == reflect.TypeFor[upload]() {
		file := map[string]any{"type": "string", "contentMediaType": "application/octet-stream", "description": "Its file name is the SHA-256 of its content, in hexadecimal"}
		form := map[string]any{"type": "object", "required": []any{"file"}, "properties": map[string]any{"file": file}}
		return map[string]any{"required": true, "content": content("multipart/form-data", form)}
	}
	mayLack := reflect.PointerTo(rt.in).Implements(reflect.TypeFor[optional]())
	schema := schemas.request(rt.in)
	body := map[string]any{"schema": schema, "example": schemas.example(schema, "")}
	return map[string]any{"required": !mayLack, "content": map[string]any{"application/json": body}}
}

// responses describes the success and the refusals.
func (rt route) responses(schemas *schemas) map[string]any {
	if rt.foreign {
		return foreignResponses()
	}
	forms := make([]any, len(rt.out))
	for i, t := range rt.out {
		forms[i] = schemas.answer(t)
	}
	all := map[string]any{"200": map[string]any{"description": "Done", "content": content(rt.media, anyOf(forms...))}}
	for _, status := range rt.errors() {
		if rt.proxy {
			all[strconv.Itoa(status)] = map[string]any{"description": http.StatusText(status), "content": content("application/json", proxyRefusal)}
			continue
		}
		all[strconv.Itoa(status)] = map[string]any{"description": http.StatusText(status), "content": content("application/json", schemas.refusal(status))}
	}
	return all
}

// proxyRefusal is what the proxy refuses with: a text, or what is wrong with which fields.
var proxyRefusal = map[string]any{"type": "object", "required": []string{"detail"}, "properties": map[string]any{"detail": map[string]any{}}}

// foreignResponses describes answers of which only the refusals are the server's.
func foreignResponses() map[string]any {
	all := map[string]any{"default": map[string]any{"description": "What the service answers"}, "200": map[string]any{"description": "What the service answers"}}
	for _, status := range []int{400, 401, 403, 404, 405, 413, 422, 502, 503, 504} {
		all[strconv.Itoa(status)] = map[string]any{"description": http.StatusText(status), "content": content("application/json", proxyRefusal)}
	}
	return all
}

func content(media string, schema map[string]any) map[string]any {
	return map[string]any{media: map[string]any{"schema": schema}}
}

// Route is one entry of the API for its description.
type Route struct{ Method, Path, Permission string }

// Routes lists the API.
func Routes() []Route {
	s := &Server{}
	var list []Route
	for _, rt := range s.routes() {
		method, path := rt.split()
		list = append(list, Route{method, path, rt.permission()})
	}
	return list
}
