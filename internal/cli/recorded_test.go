package cli

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"dstack/internal/api"
	"dstack/internal/cli/clientconfig"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// A recording is one run of the published client against the published server.
type recording struct {
	Name      string
	Command   []string
	Terminal  string
	ExitCode  int `json:"exit_code"`
	Exchanges []exchange
}

type exchange struct {
	Path, Method string
	Request      json.RawMessage
	Status       int
	Response     json.RawMessage
}

func recordings(t *testing.T) []recording {
	t.Helper()
	f, err := os.Open("testdata/recorded.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var rs []recording
	if err := json.NewDecoder(zr).Decode(&rs); err != nil {
		t.Fatal(err)
	}
	return rs
}

// different are recordings that we do not answer alike, each with the reason. Eight more are not in testdata, since they
// show tracebacks and messages of the original's libraries for broken files, see [TestBrokenConfigurations], and a
// question that nobody can answer.
var different = map[string]string{
	"01-version":                "our version is our own",
	"01-init":                   "runs in a repository of the recording machine",
	"11-help":                   "our help has other words",
	"03-unknown-command":        "our usage line has other words",
	"06-attach-logs":            "was killed; tested with a server that streams",
	"05-task-secret-in-command": "we warn that the secret is not put in",
	"05-task-attached":          "its log came over SSH; tested with a server that streams",
	"04-secret-get-unknown":     "we name the secret",
	"03-apply-error-05":         "we say where the bad name is, and ask nothing of the server",
	"03-apply-error-06":         "we say where the bad name is, and ask nothing of the server",
	"02-fleet-get-unknown":      "we name the fleet as the user did",
	"12-gang-attached":          "ends with the lost connection that we do not lose",
}

// replay serves recorded responses: for each path the first, the second and so on, the last one for ever.
// Every request must be one that the published server's description takes.
type replay struct {
	t           *testing.T
	description *description
	mu          sync.Mutex
	next        map[string][]exchange
	seen        []exchange
}

func (s *replay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	path := r.URL.RequestURI()
	s.seen = append(s.seen, exchange{Path: path, Method: r.Method, Request: body})
	queue := s.next[r.URL.Path]
	if len(queue) == 0 {
		w.WriteHeader(http.StatusMethodNotAllowed) // what the original answers to paths it does not know
		return
	}
	if len(queue) > 1 {
		s.next[r.URL.Path] = queue[1:]
	}
	if err := s.description.fits(r.Method, r.URL.Path, body); err != nil {
		s.t.Errorf("%s %s: %v\n%s", r.Method, path, err, body)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(queue[0].Status)
	_, _ = w.Write(queue[0].Response)
}

func TestRecorded(t *testing.T) {
	left := maps.Clone(different)
	for _, rec := range recordings(t) {
		if _, ok := left[rec.Name]; ok {
			delete(left, rec.Name)
			continue
		}
		t.Run(rec.Name, func(t *testing.T) {
			got, code, _ := rec.play(t)
			if code != rec.ExitCode {
				t.Errorf("exit code %d, want %d", code, rec.ExitCode)
			}
			if diff := cmp.Diff(normal(rec.Terminal), normal(got)); diff != "" && !alike(rec, got) {
				t.Errorf("%s (-want +got):\n%s", strings.Join(rec.Command, " "), diff)
			}
		})
	}
	if len(left) > 0 {
		t.Errorf("there are no such recordings: %v", left)
	}
}

// TestBrokenConfigurations: what the original answers with a traceback or its library's words is told by file, line and
// path, and nothing is asked of the server.
func TestBrokenConfigurations(t *testing.T) {
	for file, want := range map[string]string{
		"type: task\ncommands:\n  - [echo hi\n":                   "bad.yml:4:1: invalid YAML: ",
		"type: tusk\ncommands: [echo hi]\n":                       "bad.yml:1:7: ",
		"type: task\ncommandz: [echo hi]\n":                       "bad.yml:2:1: task.commandz: ",
		"type: task\ncommands: [a]\nresources:\n  memory: lots\n": "bad.yml:4:11: task.resources.memory: ",
		"type: task\ncommands: [a]\nnodes: 0\n":                   "bad.yml:3:8: task.nodes: ",
		"type: service\ncommands: [echo hi]\n":                    "bad.yml:1:1: service.port: ",
		"type: task\nname: B_\ncommands: [a]\n":                   "bad.yml:2:7: task.name: Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'\n",
		"type: fleet\nname: ok\n":                                 "bad.yml:1:1: fleet: No ssh_config or nodes specified\n",
		"- a\n- b\n":                                              "bad.yml:1:1: ",
		"\x00":                                                    "bad.yml:1:1: ",
		"type: task\ncommands: [\"\xff\"]\n":                      "bad.yml:2:13: ",
	} {
		t.Run(file, func(t *testing.T) {
			s := newFakeServer(t)
			u := newUser(t, s, "")
			if err := os.WriteFile("bad.yml", []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
			if code := u.do(t.Context(), "apply", "-y", "-f", "bad.yml"); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			if got := u.talk.String(); !strings.HasPrefix(got, want) {
				t.Errorf("message %q, want it to begin with %q", got, want)
			}
			if got := u.out.String(); got != "" {
				t.Errorf("output: %s", got)
			}
		})
	}
}

// play runs the recorded command against the recorded answers, and returns what the terminal shows.
func (rec recording) play(t *testing.T) (terminal string, code int, server *replay) {
	t.Helper()
	server = &replay{t: t, description: publishedDescription(t), next: map[string][]exchange{}}
	for _, e := range rec.Exchanges {
		path, _, _ := strings.Cut(e.Path, "?")
		server.next[path] = append(server.next[path], e)
	}
	srv := httptest.NewServer(server)
	t.Cleanup(srv.Close)
	dir, home := t.TempDir(), t.TempDir()
	t.Chdir(dir)
	d := clientconfig.Dir(filepath.Join(home, ".dstack"))
	writeKey(t, filepath.Join(home, ".ssh", "id_ed25519"))
	err := d.Update(func([]clientconfig.Project) []clientconfig.Project {
		if rec.Name == "01-project-add" {
			return nil
		}
		return []clientconfig.Project{{Default: true, Name: "main", Token: "11111111-1111-4111-8111-111111111111", URL: srv.URL}}
	})
	if err != nil {
		t.Fatal(err)
	}
	rec.writeConfiguration(t, dir)
	args := make([]string, len(rec.Command)-1)
	for i, a := range rec.Command[1:] {
		args[i] = strings.ReplaceAll(a, "http://127.0.0.1:3000", srv.URL)
	}
	var out bytes.Buffer
	p := &program.Program{IO: term.New(strings.NewReader("n\n"), &out, &out), Home: home, Now: rec.now}
	code = Main(context.Background(), Config{Program: p, Commands: Commands(nil)}, args)
	text := strings.ReplaceAll(out.String(), srv.URL, "http://127.0.0.1:3000")
	return strings.ReplaceAll(text, home, "/home/user"), code, server
}

var stamp = regexp.MustCompile(`"20\d\d-[^"]+Z"`)

// now is a little after the newest time in the answers.
func (rec recording) now() time.Time {
	var last api.Time
	for _, e := range rec.Exchanges {
		for _, s := range stamp.FindAllString(string(e.Response), -1) {
			var at api.Time
			if json.Unmarshal([]byte(s), &at) == nil && at.After(last.Time) {
				last = at
			}
		}
	}
	return last.Add(20 * time.Second)
}

// writeKey makes a private key.
func writeKey(t *testing.T, path string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeConfiguration writes the file that the command names, from what the client sent. JSON is YAML.
func (rec recording) writeConfiguration(t *testing.T, dir string) {
	t.Helper()
	file := ""
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, a := range rec.Command {
		if a == "-f" && i+1 < len(rec.Command) {
			file = rec.Command[i+1]
		}
	}
	switch {
	case file == "" || strings.HasPrefix(file, "nosuch"):
		return
	case len(rec.Exchanges) == 0:
		write(`{"type": "task", "commands": ["true"], "env": ["NOT_SET_ANYWHERE"]}`)
	}
	for _, e := range rec.Exchanges {
		var req struct {
			Name    string
			RunName string                                  `json:"run_name"`
			RunSpec struct{ Configuration json.RawMessage } `json:"run_spec"`
			Spec    struct{ Configuration json.RawMessage }
			Config  json.RawMessage `json:"configuration"`
		}
		if json.Unmarshal(e.Request, &req) != nil {
			continue
		}
		switch { // only a name is known: the configuration follows, if there is one
		case req.Name != "":
			write(`{"type": "fleet", "nodes": 1, "name": "` + req.Name + `"}`)
		case req.RunName != "":
			write(`{"type": "task", "commands": ["true"], "name": "` + req.RunName + `"}`)
		}
		for _, c := range []json.RawMessage{req.RunSpec.Configuration, req.Spec.Configuration, req.Config} {
			if c != nil {
				write(strings.ReplaceAll(string(c), "/home/user", "~"))
				return
			}
		}
	}
}

// alike accepts what is no difference: the same words on other lines, JSON with the same values, and errors that go on
// with what to do.
func alike(rec recording, got string) bool {
	var a, b any
	if json.Unmarshal([]byte(rec.Terminal), &a) == nil && json.Unmarshal([]byte(got), &b) == nil {
		return cmp.Equal(a, b)
	}
	x, y := strings.Join(normal(rec.Terminal), " "), strings.Join(normal(got), " ")
	return x == y || rec.ExitCode != 0 && strings.HasPrefix(y, x)
}

var (
	ages   = regexp.MustCompile(`\b(\d+ (sec|min|mins|hour|hours|day|days|week|weeks|month|months|year|years) ago|now|yesterday)(\s|$)`)
	clocks = regexp.MustCompile(`\b(\d{4}-\d\d-\d\d )?\d\d:\d\d(:\d\d)?\b`)
	// waiting is a line about progress, which depends on how fast the machine is.
	waiting = regexp.MustCompile(`\.\.\..* \(\d+s\)$`)
	spaces  = regexp.MustCompile(`\s+`)
)

// normal makes texts comparable: times vary, and lines are broken at other places.
func normal(s string) []string {
	var lines []string
	for line := range strings.Lines(s) {
		line = ages.ReplaceAllString(line, "AGE ")
		line = clocks.ReplaceAllString(line, "TIME")
		line = strings.TrimPrefix(line, "[TIME] INFO ")
		line = strings.TrimSpace(spaces.ReplaceAllString(line, " "))
		if line != "" && !waiting.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return lines
}
