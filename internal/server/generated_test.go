package server

import (
	"encoding/json"
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var generated = flag.Int("generated", 30, "how many requests TestGeneratedRequests makes for each operation")

// answerWithin is how long a request may take that waits for nothing, on a busy machine.
const answerWithin = 10 * time.Second

// TestGeneratedRequests makes requests from our own description of the API: of the right form
// mostly, with values nobody thought of. The answer is never a 5xx, comes soon, fits the
// description, and has changed nothing when it is a refusal.
func TestGeneratedRequests(t *testing.T) {
	doc := own(t).Root
	statuses := map[int]int{}
	paths := doc["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if strings.HasPrefix(path, "/proxy/") {
			continue // answers of services, not of the server
		}
		t.Run(strings.Trim(strings.ReplaceAll(path, "/", "_"), "_"), func(t *testing.T) {
			for method, op := range paths[path].(map[string]any) {
				s := newServer(t)
				s.addUser(t, "alice", "user")
				tokens := []string{"", s.token(t, "alice"), adminToken}
				for n := range *generated {
					g := generator{rand.New(rand.NewPCG(uint64(n), uint64(len(path)))), doc}
					statuses[s.try(t, g, strings.ToUpper(method), path, op.(map[string]any), tokens[min(g.IntN(16), 2)])]++
				}
			}
		})
	}
	t.Logf("answers by status: %v", statuses)
	for _, status := range []int{200, 400, 401, 403, 404, 422} {
		if statuses[status] < *generated {
			t.Errorf("%d answers with status %d: the requests reach little of the server", statuses[status], status)
		}
	}
}

// try makes one request, judges the answer and returns its status; [Server.call] holds it to the description.
func (s *Server) try(t *testing.T, g generator, method, path string, op map[string]any, token string) int {
	t.Helper()
	var body any
	if content, ok := dig(op, "requestBody", "content"); ok {
		form, isJSON := dig(content, "application/json", "schema")
		if !isJSON {
			return 0 // a form with a file, which has tests of its own
		}
		data, err := json.Marshal(g.value(form, 0))
		if err != nil {
			t.Fatal(err)
		}
		body = data
	}
	target := g.target(path, op)
	before, began := s.dump(t), time.Now()
	a := s.call(t, method, target, token, body)
	took := time.Since(began)
	if a.Status >= 500 || took > answerWithin || t.Failed() {
		t.Fatalf("%s %s %s: %d after %v\n%s", method, target, body, a.Status, took, short(a.Body))
	}
	if a.Status >= 400 && s.dump(t) != before {
		t.Fatalf("%s %s %s: refused with %d, but the database has changed\n%s", method, target, body, a.Status, short(a.Body))
	}
	return a.Status
}

// generator makes values of the schemas in an OpenAPI document.
type generator struct {
	*rand.Rand
	doc map[string]any
}

// maxDepth ends what schemas could nest without end.
const maxDepth = 12

// names are mostly of what there is, so that requests get further than "not found".
var names = []string{"main", "main", "main", "admin", "alice", "nosuch", "a-run", "aws", "local", "", "Ä", "x\x00y", "../main", "%2e%2e", "' OR 1=1 --", "null"}

// target is the path with its parameters filled in.
func (g generator) target(path string, op map[string]any) string {
	escape := strings.NewReplacer("%", "%25", "/", "%2F", "\x00", "%00", " ", "%20", "'", "%27", "Ä", "%C3%84")
	var query []string
	list, _ := op["parameters"].([]any)
	for _, p := range list {
		name, in := p.(map[string]any)["name"].(string), p.(map[string]any)["in"]
		word := names[g.IntN(len(names))]
		switch {
		case in == "path" && word != "" && word[0] != '.':
			path = strings.ReplaceAll(path, "{"+name+"}", escape.Replace(word))
		case in == "path":
			path = strings.ReplaceAll(path, "{"+name+"}", "main")
		case in == "query" && g.IntN(2) == 0:
			query = append(query, name+"="+escape.Replace(word))
		}
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	return path
}

// value is one that fits the schema, or now and then one that does not.
func (g generator) value(schema any, depth int) any {
	form, _ := schema.(map[string]any)
	if g.IntN(60) == 0 {
		if v := odd[g.IntN(len(odd))].value; v != any(raw("\"\xff\xfe\"")) {
			return v
		}
	}
	if ref, ok := form["$ref"].(string); ok {
		target, _ := dig(g.doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		return g.value(target, depth)
	}
	for _, word := range []string{"anyOf", "oneOf"} {
		if list, ok := form[word].([]any); ok {
			return g.value(list[g.IntN(len(list))], depth)
		}
	}
	if list, ok := form["enum"].([]any); ok && len(list) > 0 {
		if v := list[g.IntN(len(list))]; v != "local" { // the published description does not know it
			return v
		}
		return list[0]
	}
	if v, ok := form["const"]; ok {
		return v
	}
	switch g.typeOf(form["type"]) {
	case "object":
		return g.object(form, depth)
	case "array":
		list := []any{}
		for range g.IntN(4) {
			if depth < maxDepth {
				list = append(list, g.value(form["items"], depth+1))
			}
		}
		return list
	case "boolean":
		return g.IntN(2) == 0
	case "integer":
		return []any{0, 1, 2, 5, 100, -1, 1 << 31, 1 << 53, int64(-1) << 62}[g.IntN(9)]
	case "number":
		return []any{0, 0.5, 1, 1e3, -1.5, 1e300, 1e-300}[g.IntN(7)]
	case "null":
		return nil
	case "string":
		return g.text(form)
	}
	return []any{nil, 1, "text", []any{}, map[string]any{}}[g.IntN(5)]
}

func (g generator) typeOf(v any) any {
	if list, ok := v.([]any); ok && len(list) > 0 {
		return list[g.IntN(len(list))]
	}
	return v
}

func (g generator) object(form map[string]any, depth int) map[string]any {
	required, _ := form["required"].([]any)
	properties, _ := form["properties"].(map[string]any)
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if slices.Contains(required, any(name)) && g.IntN(50) > 0 || depth < maxDepth && g.IntN(3) == 0 {
			out[name] = g.value(properties[name], depth+1)
		}
	}
	if more, ok := form["additionalProperties"].(map[string]any); ok && depth < maxDepth {
		for range g.IntN(3) {
			out[names[g.IntN(len(names))]] = g.value(more, depth+1)
		}
	}
	return out
}

// text is an example of the schema, a name, or what fields of certain forms take.
func (g generator) text(form map[string]any) any {
	if list, ok := form["examples"].([]any); ok && len(list) > 0 && g.IntN(2) == 0 {
		return list[g.IntN(len(list))]
	}
	switch form["format"] {
	case "date-time":
		return []any{"2026-01-31T12:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00", "2026-02-30T00:00:00Z"}[g.IntN(4)]
	case "uuid":
		return []any{"27bb4e3a-4a2c-4c5e-8f5c-000000000001", "00000000-0000-0000-0000-000000000000", "27bb4e3a"}[g.IntN(3)]
	}
	words := append([]string{"1h", "off", "0", "5GB..", "H100:8", "..", "8000:80", "A=B", "/a:/b", "@" + strings.Repeat("é", 300), "\"", "${{ secrets.x }}"}, names...)
	return words[g.IntN(len(words))]
}

// dig follows keys into nested objects.
func dig(v any, keys ...string) (any, bool) {
	for _, key := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[key]; !ok {
			return nil, false
		}
	}
	return v, true
}
