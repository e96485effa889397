package server

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/store/storetest"
)

// running is a server that listens, and the means to stop it.
type running struct {
	*Server
	stop  context.CancelFunc
	ended chan error
}

func start(t *testing.T, s *Server) *running {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &running{Server: s, stop: stop, ended: make(chan error, 1)}
	ready := make(chan struct{})
	go func() { r.ended <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-r.ended:
		t.Fatalf("Run: %v", err)
	}
	return r
}

// open makes a server in dir that the test starts, or closes, itself.
func open(t *testing.T, dir, configYML string) (*Server, error) {
	t.Helper()
	if configYML != "" {
		if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(configYML), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return New(t.Context(), Config{Dir: dir, Host: "127.0.0.1", Token: adminToken, Log: slog.New(slog.DiscardHandler)})
}

const empty = "projects:\n  - name: main\n    backends: []\n"

func (r *running) post(ctx context.Context, path, kind string, body io.Reader) (int, string, error) {
	rq, err := http.NewRequestWithContext(ctx, "POST", r.URL()+path, body)
	if err != nil {
		return 0, "", err
	}
	rq.Header.Set("Authorization", "Bearer "+adminToken)
	rq.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(rq)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// A request that is under way when the server is told to stop is answered, what streams ends
// at once, and nobody can come anew.
func TestStop(t *testing.T) {
	s, err := open(t, t.TempDir(), empty)
	if err != nil {
		t.Fatal(err)
	}
	entered, inner := make(chan string, 100), s.handler
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- r.URL.Path
		inner.ServeHTTP(w, r)
	})
	r := start(t, s)
	run := `{"plan": {"run_spec": {"run_name": "job", "ssh_key_pub": "x", "configuration": {"type": "task", "commands": ["true"]}}}, "force": false}`
	if status, body, err := r.post(t.Context(), "/api/project/main/runs/apply", "application/json", strings.NewReader(run)); status != 200 {
		t.Fatalf("apply: %d %s, %v", status, body, err)
	}
	seen := "" // until the run, for which there is no fleet, has failed and changes no more
	for status := ""; status != "failed"; {
		_, body, err := r.post(t.Context(), "/api/project/main/runs/watch", "application/json", strings.NewReader(fmt.Sprintf(`{"run_name": "job", "seen": %q, "wait": 25}`, seen)))
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			Run     struct{ Status string }
			Version string
		}
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		seen, status = v.Version, v.Run.Status
	}
	type answer struct {
		status int
		body   string
		err    error
	}
	for len(entered) > 0 {
		<-entered // of the requests before
	}
	watched := make(chan answer, 1)
	go func() {
		status, body, err := r.post(t.Context(), "/api/project/main/runs/watch", "application/json", strings.NewReader(fmt.Sprintf(`{"run_name": "job", "seen": %q, "wait": 25}`, seen)))
		watched <- answer{status, body, err}
	}()
	<-entered // the watch
	pr, pw := io.Pipe()
	form := multipart.NewWriter(pw)
	uploaded := make(chan answer, 1)
	go func() {
		status, body, err := r.post(t.Context(), "/api/files/upload_archive", form.FormDataContentType(), pr)
		uploaded <- answer{status, body, err}
	}()
	file, err := form.CreateFormFile("file", "hash")
	if err != nil {
		t.Fatal(err)
	}
	archive := tarOf(t, "a.txt", strings.Repeat("x", 64<<10))
	if _, err := file.Write(archive[:len(archive)-1]); err != nil {
		t.Fatal(err)
	}
	for path := ""; !strings.HasSuffix(path, "/upload_archive"); {
		path = <-entered
	}
	r.stop()
	if a := <-watched; a.err != nil || a.status != 200 {
		t.Errorf("the watch: %+v", a)
	}
	select {
	case err := <-r.ended:
		t.Fatalf("the server ended (%v) before the upload", err)
	default:
	}
	if _, err := file.Write(archive[len(archive)-1:]); err != nil {
		t.Error(err)
	}
	if err := form.Close(); err != nil {
		t.Error(err)
	}
	pw.Close()
	if a := <-uploaded; a.err != nil || a.status != 200 {
		t.Errorf("the upload: %+v", a)
	}
	if err := <-r.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, _, err := r.post(t.Context(), "/healthcheck", "", nil); err == nil {
		t.Error("the server still answers")
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for port, want := range map[int]string{l.Addr().(*net.TCPAddr).Port: "is in use", 70000: "use one from 1 to 65535"} {
		s, err := open(t, t.TempDir(), empty)
		if err != nil {
			t.Fatal(err)
		}
		s.Port = port
		if err := s.Run(t.Context(), func() { t.Error("ready") }); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run on port %d: %v, want %s", port, err, want)
		}
	}
}

// One folder serves one server; the next one finds everything, the administrator's token too.
func TestSecondStart(t *testing.T) {
	dir := t.TempDir()
	first, err := open(t, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if !first.NewAdmin || first.AdminToken != adminToken {
		t.Errorf("first start: new %v, token %s", first.NewAdmin, first.AdminToken)
	}
	if _, err := open(t, dir, ""); err == nil || !strings.Contains(err.Error(), "another dstack server uses it") {
		t.Errorf("a second server in the same folder: %v", err)
	}
	first.shut(t)
	again, err := New(t.Context(), Config{Dir: dir, Token: "another", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer again.shut(t)
	if again.NewAdmin || again.AdminToken != adminToken {
		t.Errorf("second start: new %v, token %s: the stored one counts", again.NewAdmin, again.AdminToken)
	}
}

func TestReplicasStartTogether(t *testing.T) {
	t.Run("postgres", func(t *testing.T) { // a SQLite file serves one server only
		url := storetest.PostgresURL(t)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				s, err := New(t.Context(), Config{Dir: t.TempDir(), DBURL: url, NoFile: true, Token: adminToken, Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Error(err)
					return
				}
				s.shut(t)
			})
		}
		wg.Wait()
	})
}

func TestBadFile(t *testing.T) {
	key := func(name string) string {
		return "projects: []\nencryption:\n  keys:\n    - {type: aes, name: k, secret: " + name + "}\n"
	}
	good := key("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	for name, c := range map[string]struct {
		before, file string // config.yml of an earlier start, and of this one
		want         string
	}{
		"an unknown key":      {"", "projects:\n  - name: main\n    backend: []\n", "config.yml:3:5: projects[0].backend: Extra inputs are not permitted"},
		"a wrong type":        {"", "projects: main\n", "config.yml:1:11: projects: Input should be a valid list"},
		"no YAML":             {"", "projects: [\n", "config.yml:"},
		"two problems":        {"", "projects: []\nx: 1\ny: 2\n", "config.yml:3:1: y: Extra inputs are not permitted"},
		"nothing in it":       {"", "\n", "config.yml:"},
		"an unknown backend":  {"", "projects: [{name: main, backends: [{type: nosuch}]}]\n", "projects[0].backends[0]: Input tag 'nosuch' found using 'type'"},
		"a short key":         {"", key("AAAA"), "config.yml:4:36: encryption.keys[0].aes.secret: AES key must be 32 bytes. Got 3 bytes"},
		"no base64":           {"", key("'!'"), "config.yml:4:36: encryption.keys[0].aes.secret: Failed to decode secret from base64"},
		"the key was lost":    {good, "projects: []\n", "the database is encrypted with a key that is not in encryption.keys"},
		"the key was changed": {good, key("ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="), "the database is encrypted with a key that is not in encryption.keys"},
		"the file was lost":   {good, "", "which held the keys, is missing: restore it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.before != "" {
				s, err := open(t, dir, c.before)
				if err != nil {
					t.Fatal(err)
				}
				s.shut(t)
				if err := os.Remove(filepath.Join(dir, "config.yml")); err != nil {
					t.Fatal(err)
				}
			}
			s, err := open(t, dir, c.file)
			if err == nil {
				s.shut(t)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New: %v, want %s", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "config.yml")); c.file == "" && err == nil {
				t.Error("a file with a key that opens nothing was left")
			}
		})
	}
}

// A key that was put in front takes over; what the old one sealed stays readable.
func TestKeyRotation(t *testing.T) {
	dir := t.TempDir()
	aes := func(names ...string) string {
		text := "projects: []\nencryption:\n  keys:\n"
		for _, n := range names {
			text += "    - {type: aes, name: " + n + ", secret: " + map[string]string{"old": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "new": "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="}[n] + "}\n"
		}
		return text
	}
	for i, file := range []string{aes("old"), aes("new", "old"), aes("old", "new")} {
		s, err := open(t, dir, file)
		if err != nil {
			t.Fatal(err)
		}
		s.must(t, "/api/project/main/secrets/create_or_update", map[string]string{"name": fmt.Sprintf("K%d", i), "value": "hunter2"}, nil)
		for j := range i + 1 {
			var v struct{ Value string }
			s.must(t, "/api/project/main/secrets/get", map[string]string{"name": fmt.Sprintf("K%d", j)}, &v)
			if v.Value != "hunter2" {
				t.Errorf("start %d: K%d = %q", i, j, v.Value)
			}
		}
		s.shut(t)
	}
	// Without the newer key one secret is lost: that is said, and nothing else fails.
	s, err := open(t, dir, aes("old"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.shut(t)
	a := s.call(t, "POST", "/api/project/main/secrets/get", adminToken, map[string]string{"name": "K1"})
	if a.Status != 400 || !strings.Contains(string(a.Body), "encrypted with a key that the server no longer has") {
		t.Errorf("the lost secret: %d %s", a.Status, a.Body)
	}
	s.must(t, "/api/project/main/secrets/list", nil, nil)
}

// A path that is no address is answered before it comes to the server's handler: the only answer that
// is no JSON.
func TestBadEscape(t *testing.T) {
	server, err := open(t, t.TempDir(), empty)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, server)
	for target, want := range map[string]string{
		"/proxy/services/main/svc/%zz":   "400 Bad Request",
		"/api/project/%/runs/list":       "400 Bad Request",
		"/proxy/services/main/svc/%25":   `{"detail":"Service main/svc not found"}`,
		"/proxy/services/main/svc/?x=%z": `{"detail":"Service main/svc not found"}`,
	} {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != want {
			t.Errorf("%s: %d %s %v, want %s", target, resp.StatusCode, body, err, want)
		}
		c.Close()
	}
	s.stop()
	if err := <-s.ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// pipe is a listener of connections in memory, whose deadlines follow virtual time.
type pipe struct{ conns chan net.Conn }

func (p pipe) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipe) Close() error   { return nil }
func (p pipe) Addr() net.Addr { return &net.TCPAddr{} }

// A client that does not send what it announced is answered after a while.
func TestSlowBody(t *testing.T) {
	for path, limit := range map[string]time.Duration{"/api/runs/list": bodyTimeout, "/api/users/nosuch": bodyTimeout, "/api/files/upload_archive": uploadTimeout} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				l := pipe{make(chan net.Conn, 1)}
				srv := &http.Server{Handler: s.Handler()}
				go func() { _ = srv.Serve(l) }() // ends with Close
				client, served := net.Pipe()
				l.conns <- served
				began := time.Now()
				fmt.Fprintf(client, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 100\r\n\r\n--b", path, adminToken)
				resp, err := http.ReadResponse(bufio.NewReader(client), nil)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if took := time.Since(began); resp.StatusCode/100 != 4 || took != limit {
					t.Errorf("%d after %v, want a 4xx after %v", resp.StatusCode, took, limit)
				}
				client.Close()
				close(l.conns)
				srv.Close()
			})
		})
	}
}

// What takes longer than a body may take is not ended by that, also where there is no body.
func TestLongRequestWithoutBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		l := pipe{make(chan net.Conn, 1)}
		srv := &http.Server{Handler: s.observed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			err := decode(w, r, &struct{}{})
			select {
			case <-time.After(2 * time.Minute):
			case <-r.Context().Done():
				err = context.Cause(r.Context())
			}
			if err != nil {
				s.fail(w, r, err)
			}
		}))}
		go func() { _ = srv.Serve(l) }() // ends with Close
		client, served := net.Pipe()
		l.conns <- served
		fmt.Fprintf(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%d", resp.StatusCode)
		}
		client.Close()
		close(l.conns)
		srv.Close()
	})
}

// tarOf is an archive with one file.
func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
