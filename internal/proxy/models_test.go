package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"dstack/internal/config"
	"dstack/internal/run"
)

// chatModel answers as OpenAI's API, with fields that it does not know.
func chatModel(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch text := string(body); {
		case strings.Contains(text, "refuse"):
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, "too much")
		case strings.Contains(text, `"stream":true`):
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			for n := range 3 {
				fmt.Fprintf(w, "data: {\"n\":%d}\n\n", n)
				_ = http.NewResponseController(w).Flush()
			}
			fmt.Fprint(w, "data: [DONE]\n\n")
		default:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"of":%q,"path":%q,"got":%s}`, name, r.URL.Path, body)
		}
	})
}

func (w *world) serveModel(name, model string, at time.Time, c config.Service, handlers ...http.Handler) {
	c.Model = &config.Model{Type: "chat", Name: model, Format: "openai", Prefix: "/v1"}
	w.serve(name, c, handlers...)
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.services[name]
	s.SubmittedAt = at
	w.services[name] = s
}

// ask sends a request of a member.
func (w *world) ask(method, path, body string) reply {
	w.t.Helper()
	return w.do(method, path, body, "Authorization", "Bearer "+goodToken)
}

func TestModels(t *testing.T) {
	w := newWorld(t, 0)
	at := time.Unix(1_700_000_000, 0)
	w.serveModel("old", "llm", at, open(), chatModel("old"))
	w.serveModel("new", "llm", at.Add(time.Hour), open(), chatModel("new"))
	w.serveModel("starting", "llm", at.Add(2*time.Hour), open())
	kept := open()
	kept.StripPrefix = false
	w.serveModel("kept", "other", at, kept, chatModel("kept"))
	w.serve("plain", open(), echo)

	w.want(w.ask("GET", "/proxy/models/main/models", ""), http.StatusOK,
		`{"object":"list","data":[{"object":"model","id":"llm","created":1700003600,"owned_by":"main"},{"object":"model","id":"other","created":1700000000,"owned_by":"main"},{"object":"model","id":"llm","created":1700000000,"owned_by":"main"}]}`)
	w.want(w.do("GET", "/proxy/models/main/models", ""), http.StatusForbidden, `{"detail":"Unauthenticated or unauthorized to access project main"}`)
	w.want(w.ask("GET", "/proxy/models/other/models", ""), http.StatusForbidden, `{"detail":"Unauthenticated or unauthorized to access project other"}`)

	const path = "/proxy/models/main/chat/completions"
	const ask = `{"model":"%s","messages":[{"role":"user","content":[{"type":"text"}]}],"top_k":5%s}`
	w.want(w.ask("POST", path, fmt.Sprintf(ask, "llm", "")), http.StatusOK, `{"of":"new","path":"/v1/chat/completions","got":`+fmt.Sprintf(ask, "llm", "")+`}`)
	w.want(w.ask("POST", path, fmt.Sprintf(ask, "other", "")), http.StatusOK, `{"of":"kept","path":"/proxy/services/main/kept/v1/chat/completions","got":`+fmt.Sprintf(ask, "other", "")+`}`)
	streamed := w.ask("POST", path, fmt.Sprintf(ask, "llm", `,"stream":true`))
	w.want(streamed, http.StatusOK, "data: {\"n\":0}\n\ndata: {\"n\":1}\n\ndata: {\"n\":2}\n\ndata: [DONE]\n\n")
	if streamed.header.Get("Content-Type") != "text/event-stream; charset=utf-8" || streamed.header.Get("X-Accel-Buffering") != "no" {
		t.Errorf("headers of a stream: %v", streamed.header)
	}
	w.want(w.ask("POST", path, fmt.Sprintf(ask, "nosuch", "")), http.StatusNotFound, `{"detail":"Model nosuch not found in project main"}`)
	w.want(w.ask("POST", path, fmt.Sprintf(ask, "llm", `,"user":"refuse"`)), http.StatusTooManyRequests, `{"detail":"too much"}`)
	for body, want := range map[string]string{
		`{`:                            `{"detail":[{"type":"json_invalid","loc":["body",0],"msg":"JSON decode error","input":{}}]}`,
		`[]`:                           `{"detail":[{"type":"json_invalid","loc":["body",0],"msg":"JSON decode error","input":{}}]}`,
		`{"model":"x"}`:                `{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required","input":{}}]}`,
		`{"messages":7}`:               `{"detail":[{"type":"list_type","loc":["body","messages"],"msg":"Input should be a valid list","input":7},{"type":"missing","loc":["body","model"],"msg":"Field required","input":{}}]}`,
		`{"model":null,"messages":[]}`: `{"detail":[{"type":"string_type","loc":["body","model"],"msg":"Input should be a valid string","input":null}]}`,
	} {
		w.want(w.ask("POST", path, body), http.StatusUnprocessableEntity, want)
	}
}

func TestModelThatIsGone(t *testing.T) {
	w := newWorld(t, 0)
	w.serveModel("svc", "llm", time.Unix(0, 0), open(), chatModel("svc"))
	w.mu.Lock()
	delete(w.addrs, "svc-0")
	w.mu.Unlock()
	r := w.ask("POST", "/proxy/models/main/chat/completions", `{"model":"llm","messages":[]}`)
	if r.status != http.StatusBadGateway || !strings.Contains(r.body, "Error requesting model: ") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestNewest(t *testing.T) {
	one, two := 1, 2
	model := &config.Model{Name: "m"}
	fixed := &config.Service{Model: model}
	scaled := &config.Service{Model: model, Replicas: &config.IntRange{Min: &one, Max: &two}, Scaling: &config.Scaling{}}
	up := []run.Endpoint{{JobID: "j"}}
	for name, tt := range map[string]struct {
		list []run.Served
		want string
	}{
		"the newest":                {[]run.Served{{Name: "a", Service: fixed, Replicas: up}, {Name: "b", Service: fixed, Replicas: up}}, "a"},
		"one that takes requests":   {[]run.Served{{Name: "a", Service: scaled}, {Name: "b", Service: fixed, Replicas: up}}, "b"},
		"one that requests wake up": {[]run.Served{{Name: "a", Service: fixed}, {Name: "b", Service: scaled}}, "b"},
		"none":                      {[]run.Served{{Name: "a", Service: fixed}}, ""},
	} {
		got, ok := newest(tt.list, "m")
		if got.Name != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: %q, %v", name, got.Name, ok)
		}
	}
}
