package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/run"
	"dstack/internal/store"
)

// world is a proxy with services whose replicas are HTTP servers.
type world struct {
	t        *testing.T
	p        *Proxy
	srv      *httptest.Server
	mu       sync.Mutex
	services map[string]run.Served // by name; the project is main
	addrs    map[string]string     // of replicas, by job
	finds    int
	dead     map[string]error // what hosts answer, by job
	asked    int              // how often hosts were
	reported []run.Requests
}

const goodToken = "secret-of-a-member"

func newWorld(t *testing.T, timeout time.Duration) *world {
	t.Helper()
	w := &world{t: t, services: map[string]run.Served{}, addrs: map[string]string{}, dead: map[string]error{}}
	var err error
	w.p, err = New(Config{
		Services: w, Timeout: timeout, Log: slog.New(slog.DiscardHandler),
		Member: func(_ context.Context, project, token string) (bool, error) {
			return project == "main" && token == goodToken, nil
		},
		Dial: func(ctx context.Context, e run.Endpoint) (net.Conn, error) {
			w.mu.Lock()
			addr := w.addrs[e.JobID]
			w.mu.Unlock()
			if addr == "" {
				return nil, errors.New("connection refused")
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		},
		Alive: func(_ context.Context, e run.Endpoint) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.asked++
			return w.dead[e.JobID]
		},
		Report: func(_ context.Context, counts []run.Requests) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.reported = append(w.reported, counts...)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/proxy/models/{project}/models", func(rw http.ResponseWriter, r *http.Request) { w.p.Models(rw, r, r.PathValue("project")) })
	mux.HandleFunc("/proxy/models/{project}/chat/completions", func(rw http.ResponseWriter, r *http.Request) { w.p.Chat(rw, r, r.PathValue("project")) })
	w.srv = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.EscapedPath(), prefix) {
			w.p.Service(rw, r)
			return
		}
		mux.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.srv.Close)
	return w
}

func (w *world) Served(_ context.Context, project, name string) (run.Served, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finds++
	s, ok := w.services[name]
	if !ok || project != "main" {
		return run.Served{}, store.ErrNotFound
	}
	return s, nil
}

func (w *world) Models(_ context.Context, project string) ([]run.Served, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []run.Served
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		if s := w.services[name]; s.Service.Model != nil && project == "main" {
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b run.Served) int { return b.SubmittedAt.Compare(a.SubmittedAt) })
	return list, nil
}

// serve adds a service with a replica for each handler.
func (w *world) serve(name string, c config.Service, handlers ...http.Handler) {
	w.t.Helper()
	s := run.Served{RunID: "run-" + name, Project: "main", Name: name, Service: &c}
	for i, h := range handlers {
		srv := httptest.NewServer(h)
		w.t.Cleanup(srv.Close)
		id := fmt.Sprintf("%s-%d", name, i)
		s.Replicas = append(s.Replicas, run.Endpoint{JobID: id})
		w.mu.Lock()
		w.addrs[id] = srv.Listener.Addr().String()
		w.mu.Unlock()
	}
	w.mu.Lock()
	w.services[name] = s
	w.mu.Unlock()
	w.p.Changed(s.RunID)
}

// open is a service that asks for no token.
func open() config.Service { return config.Service{StripPrefix: true} }

type reply struct {
	status int
	header http.Header
	body   string
}

func (w *world) do(method, path, body string, header ...string) reply {
	w.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.srv.URL+path, r)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{res.StatusCode, res.Header, string(data)}
}

func (w *world) want(r reply, status int, body string) {
	w.t.Helper()
	if r.status != status || r.body != body {
		w.t.Errorf("%d %q, want %d %q", r.status, r.body, status, body)
	}
}

// echo answers with what it was asked.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "echo/1")
	w.Header().Add("Set-Cookie", "a=1; Path=/x")
	w.Header().Add("Set-Cookie", "b=2")
	w.Header().Set("Location", "/elsewhere")
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprintf(w, "%s %s host=%s length=%d\n", r.Method, r.RequestURI, r.Host, r.ContentLength)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name != "User-Agent" && name != "Accept-Encoding" && name != "Connection" {
			fmt.Fprintf(w, "%s: %s\n", name, strings.Join(r.Header[name], "|"))
		}
	}
	_, _ = io.Copy(w, r.Body)
})

func TestPassesOn(t *testing.T) {
	w := newWorld(t, 0)
	w.serve("svc", open(), echo)
	kept := open()
	kept.StripPrefix = false
	w.serve("whole", kept, echo)

	got := w.do("GET", "/proxy/services/main/svc/a%2Fb//c?x=1;y=%zz", "", "Host", "svc.example", "Authorization", "Bearer x", "Cookie", "c=3", "X-Forwarded-For", "10.0.0.1", "Connection", "close")
	w.want(got, http.StatusTeapot, "GET /a%2Fb//c?x=1;y=%zz host=svc.example length=0\nAuthorization: Bearer x\nCookie: c=3\nX-Forwarded-For: 10.0.0.1\n")
	if got.header.Get("Server") != "" || got.header.Get("Location") != "/elsewhere" || len(got.header["Set-Cookie"]) != 2 || len(got.header["Date"]) != 1 {
		t.Errorf("headers: %v", got.header)
	}
	w.want(w.do("POST", "/proxy/services/main/svc/", "hello", "Host", "h"), http.StatusTeapot, "POST / host=h length=5\nContent-Length: 5\nhello")
	w.want(w.do("OPTIONS", "/proxy/services/main/svc/", "", "Host", "h"), http.StatusTeapot, "OPTIONS / host=h length=0\n")
	w.want(w.do("GET", "/proxy/services/main/whole/a", "", "Host", "h"), http.StatusTeapot, "GET /proxy/services/main/whole/a host=h length=0\n")
	for path, want := range map[string]string{
		"/proxy/services/main/svc":          "/proxy/services/main/svc/",
		"/proxy/services/main/svc?a=b&c=%2": "/proxy/services/main/svc/?a=b&c=%2",
	} {
		if r := w.do("POST", path, "x"); r.status != http.StatusPermanentRedirect || r.header.Get("Location") != want {
			t.Errorf("%s: %d to %q, want %q", path, r.status, r.header.Get("Location"), want)
		}
	}
	w.want(w.do("OPTIONS", "/proxy/services/main/svc", ""), http.StatusMethodNotAllowed, `{"detail":"Method Not Allowed"}`)
	w.want(w.do("PROPFIND", "/proxy/services/main/svc/", ""), http.StatusMethodNotAllowed, `{"detail":"Method Not Allowed"}`)
	w.want(w.do("GET", "/proxy/services/main/", ""), http.StatusNotFound, `{"detail":"Not Found"}`)
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, 100*time.Millisecond)
	locked := config.Service{StripPrefix: true, Auth: true}
	w.serve("locked", locked, echo)
	w.serve("starting", open())
	zero, one := 0, 1
	scaled := config.Service{StripPrefix: true, Auth: true, Replicas: &config.IntRange{Min: &zero, Max: &one}, Scaling: &config.Scaling{Metric: "rps", Target: 1}}
	w.serve("asleep", scaled)
	name := "router"
	w.serve("routed", config.Service{StripPrefix: true, Groups: []config.ReplicaGroup{{Name: &name, Router: &config.Router{Type: "smg"}, Replicas: config.IntRange{Min: &one, Max: &one}}}}, echo)
	w.serve("gone", open(), echo)
	w.mu.Lock()
	delete(w.addrs, "gone-0")
	w.mu.Unlock()
	over := make(chan struct{})
	w.serve("slow", open(), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-over }))
	defer close(over)

	for _, tt := range []struct {
		path, token string
		status      int
		detail      string
	}{
		{"/proxy/services/main/nosuch/", "", 404, "Service main/nosuch not found"},
		{"/proxy/services/nosuch/locked/", goodToken, 404, "Service nosuch/locked not found"},
		{"/proxy/services/main/starting/", "", 404, "Service main/starting not found"},
		{"/proxy/services/main/locked/", "", 403, "Unauthenticated or unauthorized to access project main"},
		{"/proxy/services/main/locked/", "wrong", 403, "Unauthenticated or unauthorized to access project main"},
		{"/proxy/services/main/asleep/", "", 403, "Unauthenticated or unauthorized to access project main"},
		{"/proxy/services/main/asleep/", goodToken, 503, "Service main/asleep has no replicas that take requests now"},
		{"/proxy/services/main/routed/workers", "", 403, "Path is not allowed for this service"},
		{"/proxy/services/main/gone/", "", 502, "Error requesting upstream"},
		{"/proxy/services/main/slow/", "", 504, "Timed out requesting upstream"},
	} {
		r := w.do("GET", tt.path, "", "Authorization", "bearer "+tt.token)
		if r.status != tt.status || r.body != `{"detail":"`+tt.detail+`"}` || r.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s with %q: %d %s %s, want %d %s", tt.path, tt.token, r.status, r.header.Get("Content-Type"), r.body, tt.status, tt.detail)
		}
	}
	if r := w.do("GET", "/proxy/services/main/locked/", "", "Authorization", "Bearer "+goodToken); r.status != http.StatusTeapot {
		t.Errorf("a member: %d %s", r.status, r.body)
	}
	list := w.p.traffic.take()
	if len(list) != 1 || list[0].RunID != "run-asleep" || list[0].Count != 1 {
		t.Errorf("counted: %v, want the one request of a member for the service that scales", list)
	}
}

func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			fmt.Fprint(w, "begun")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, name)
	})
}

func TestBalance(t *testing.T) {
	w := newWorld(t, 0)
	w.serve("svc", open(), named("a"), named("b"), named("c"))
	counts := map[string]int{}
	for range 12 {
		counts[w.do("GET", "/proxy/services/main/svc/", "").body]++
	}
	if counts["a"] != 4 || counts["b"] != 4 || counts["c"] != 4 {
		t.Errorf("12 requests one after the other: %v, want 4 for each replica", counts)
	}
	if w.finds != 1 {
		t.Errorf("the service was looked up %d times, want once", w.finds)
	}

	// One that is busy gets less.
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", w.srv.URL+"/proxy/services/main/svc/hold", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	busy := ""
	for i := range 3 {
		if id := fmt.Sprintf("svc-%d", i); w.p.Busy(id) {
			busy = string(rune('a' + i))
		}
	}
	clear(counts)
	for range 10 {
		counts[w.do("GET", "/proxy/services/main/svc/", "").body]++
	}
	if busy == "" || counts[busy] != 0 {
		t.Errorf("replica %q is busy, the others' load: %v", busy, counts)
	}
	cancel()
	res.Body.Close()

	// One that is gone is passed over, also by requests with a body.
	w.mu.Lock()
	delete(w.addrs, "svc-0")
	w.mu.Unlock()
	w.p.outgoing.(*http.Transport).CloseIdleConnections()
	for i := range 10 {
		if r := w.do("POST", "/proxy/services/main/svc/", strings.Repeat("x", 100_000)); r.status != http.StatusOK || r.body == "a" {
			t.Errorf("request %d: %d %s", i, r.status, r.body)
		}
	}

	// News of the run come through at once.
	w.serve("svc", open(), named("new"))
	w.want(w.do("GET", "/proxy/services/main/svc/", ""), http.StatusOK, "new")
}

// A replica that dies with a request on it: the request goes elsewhere if it may be repeated.
func TestRepeats(t *testing.T) {
	w := newWorld(t, 0)
	breaks := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	w.serve("svc", open(), breaks, named("b"))
	var ok, failed int
	for range 4 {
		w.want(w.do("GET", "/proxy/services/main/svc/", ""), http.StatusOK, "b")
		switch r := w.do("POST", "/proxy/services/main/svc/", "pay"); r.status {
		case http.StatusOK:
			ok++
		case http.StatusBadGateway:
			failed++
		}
	}
	if ok+failed != 4 || failed == 0 {
		t.Errorf("%d POSTs answered, %d failed: one that was sent is not to be sent again", ok, failed)
	}
}

// A replica that says nothing is waited for as long as its host gives signs of life.
func TestSilence(t *testing.T) {
	w := newWorld(t, 0)
	w.p.silentAfter = 20 * time.Millisecond
	silent := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then it is noticed that the client has gone
		switch r.URL.Path {
		case "/thinks":
			for {
				w.mu.Lock()
				asked := w.asked
				w.mu.Unlock()
				if asked >= 3 {
					break
				}
				<-time.After(time.Millisecond)
			}
			fmt.Fprint(rw, "thought")
			return
		case "/stream":
			fmt.Fprint(rw, "begun")
			_ = http.NewResponseController(rw).Flush()
		}
		<-r.Context().Done()
	})
	w.serve("svc", open(), silent)
	w.want(w.do("GET", "/proxy/services/main/svc/thinks", ""), http.StatusOK, "thought")

	w.mu.Lock()
	w.dead["svc-0"] = errors.New("no answer")
	w.mu.Unlock()
	w.want(w.do("POST", "/proxy/services/main/svc/", "pay"), http.StatusBadGateway, `{"detail":"Error requesting upstream: the host of the replica does not answer"}`)
	w.want(w.do("GET", "/proxy/services/main/svc/", ""), http.StatusBadGateway, `{"detail":"Error requesting upstream: the host of the replica does not answer"}`)

	res, err := http.Get(w.srv.URL + "/proxy/services/main/svc/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if data, err := io.ReadAll(res.Body); string(data) != "begun" || err == nil {
		t.Errorf("a stream that went silent: %q, %v", data, err)
	}

	// Another replica gets what may be repeated.
	w.serve("svc", open(), silent, named("b"))
	for range 4 {
		w.want(w.do("GET", "/proxy/services/main/svc/", ""), http.StatusOK, "b")
	}
	for range 4 { // the silent one rests now
		w.want(w.do("POST", "/proxy/services/main/svc/", "pay"), http.StatusOK, "b")
	}
}

// A connection that is used otherwise ends too when its host has gone.
func TestSilentWebsocket(t *testing.T) {
	w := newWorld(t, 0)
	w.p.silentAfter = 20 * time.Millisecond
	w.serve("svc", open(), http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		_, _, _ = c.Read(r.Context())
	}))
	c, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(w.srv.URL, "http")+"/proxy/services/main/svc/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	w.mu.Lock()
	w.dead["svc-0"] = errors.New("no answer")
	w.mu.Unlock()
	if _, _, err := c.Read(t.Context()); err == nil {
		t.Error("the host has gone, and the connection goes on")
	}
}

// A stream arrives piece by piece, and one that breaks off does not seem complete.
func TestStreams(t *testing.T) {
	w := newWorld(t, 0)
	next := make(chan string)
	w.serve("svc", open(), http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		for text := range next {
			if text == "break" {
				panic(http.ErrAbortHandler)
			}
			fmt.Fprintf(rw, "data: %s\n\n", text)
			_ = http.NewResponseController(rw).Flush()
		}
	}))
	get := func() *http.Response {
		res, err := http.Get(w.srv.URL + "/proxy/services/main/svc/events")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	go func() { next <- "one" }()
	res := get()
	lines := bufio.NewScanner(res.Body)
	for _, text := range []string{"one", "two", "three"} {
		if text != "one" {
			next <- text
		}
		if !lines.Scan() || lines.Text() != "data: "+text || !lines.Scan() {
			t.Fatalf("%q, want %q", lines.Text(), text)
		}
	}
	next <- "break"
	if lines.Scan() || lines.Err() == nil {
		t.Errorf("the stream broke off, the client saw %q, %v", lines.Text(), lines.Err())
	}
}

func TestWebsocket(t *testing.T) {
	w := newWorld(t, 0)
	w.serve("svc", config.Service{StripPrefix: true, Auth: true}, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, bytes.ToUpper(data)); err != nil {
				return
			}
		}
	}))
	url := "ws" + strings.TrimPrefix(w.srv.URL, "http") + "/proxy/services/main/svc/ws"
	if _, res, err := websocket.Dial(t.Context(), url, nil); err == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("without a token: %v", err)
	}
	c, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + goodToken}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"hello", strings.Repeat("long ", 2000)} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, data, err := c.Read(t.Context()); err != nil || string(data) != strings.ToUpper(text) {
			t.Errorf("%q, %v", data, err)
		}
	}
	if !w.p.Busy("svc-0") {
		t.Error("a connection that is open is no work")
	}
	c.CloseNow()
	for end := time.Now().Add(10 * time.Second); w.p.Busy("svc-0"); {
		if time.Now().After(end) {
			t.Fatal("the connection is closed, and still counted")
		}
		<-time.After(time.Millisecond)
	}
}

func TestProbe(t *testing.T) {
	w := newWorld(t, 0)
	w.serve("svc", open(), http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/well":
			rw.WriteHeader(http.StatusNoContent)
		case "/moved":
			http.Redirect(rw, r, "/well", http.StatusFound)
		case "/asks":
			if r.Method != "POST" || r.Host != "dstack" || r.Header.Get("X-Probe") != "1" || string(data) != "body" {
				rw.WriteHeader(http.StatusBadRequest)
			}
		case "/slow":
			<-r.Context().Done()
		default:
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	text := "body"
	for path, well := range map[string]bool{"/well": true, "/moved": false, "/ill": false, "/slow": false, "/asks": true} {
		spec := api.ProbeSpec{URL: path, Method: "get", Timeout: 1}
		if path == "/asks" {
			spec.Method, spec.Body, spec.Headers = "post", &text, []config.ProbeHeader{{Name: "X-Probe", Value: "1"}}
		}
		if err := w.p.Probe(t.Context(), run.Endpoint{JobID: "svc-0"}, spec); (err == nil) != well {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := w.p.Probe(t.Context(), run.Endpoint{JobID: "nosuch"}, api.ProbeSpec{URL: "/well", Method: "get", Timeout: 1}); err == nil {
		t.Error("a replica that cannot be reached is well")
	}
}
