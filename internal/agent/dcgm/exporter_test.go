package dcgm

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agent/dcgm/dcgmtest"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	first  = "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef111"
	second = "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef222"
)

func TestFilter(t *testing.T) {
	all := dcgmtest.Exposition(97, first, second)
	for name, c := range map[string]struct {
		text string
		gpus []string
		want string
	}{
		"one of two":        {all, []string{first}, dcgmtest.Exposition(97, first)},
		"both":              {all, []string{second, first}, all},
		"another":           {all, []string{"GPU-8ef02f3c"}, ""},
		"none":              {all, nil, ""},
		"no text":           {"", []string{first}, ""},
		"no last newline":   {strings.TrimSuffix(all, "\n"), []string{first, second}, all},
		"metrics of others": {"# HELP up x\n# TYPE up gauge\nup 1\n# nonsense\n" + all, []string{first}, dcgmtest.Exposition(97, first)},
		"described behind a sample": {`A{UUID="` + first + `"} 1` + "\n# HELP A x\n" + `A{gpu="1", UUID="` + first + `"} 2` + "\n", []string{first},
			`A{UUID="` + first + `"} 1` + "\n# HELP A x\n" + `A{gpu="1", UUID="` + first + `"} 2` + "\n"},
		"a value that looks like the label": {`A{UUID="` + second + `",err="x,UUID=\"` + first + `\""} 1` + "\n" + `A{MYUUID="` + first + `"} 1` + "\n", []string{first}, ""},
		"no sample":                         {"UUID=\"" + first + "\"\n{UUID=\"" + first + "\"} 1\n", []string{first}, ""},
	} {
		if diff := cmp.Diff(c.want, string(Filter([]byte(c.text), c.gpus))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The counters are those that the published agent's exporter has.
func TestCounters(t *testing.T) {
	gauges, totals := 0, 0
	seen := map[string]bool{}
	for line := range strings.Lines(string(counters)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.SplitN(line, ", ", 3)
		if len(f) != 3 || strings.Contains(f[2], ",") || seen[f[0]] {
			t.Errorf("not a counter: %s", line)
			continue
		}
		seen[f[0]] = true
		switch f[1] {
		case "gauge":
			gauges++
		case "counter":
			totals++
		default:
			t.Errorf("%s is a %s", f[0], f[1])
		}
	}
	if gauges != 22 || totals != 27 {
		t.Errorf("%d gauges and %d counters", gauges, totals)
	}
}

// log is what an agent logs.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newExporter has an interval so short that each look is a new one.
func newExporter(t *testing.T, port int) (*Exporter, *log) {
	t.Helper()
	l := &log{}
	e := NewExporter(ExporterConfig{Dir: t.TempDir(), Port: port, Interval: 100 * time.Millisecond, Log: slog.New(slog.NewTextHandler(l, nil))})
	e.addresses, e.usualEngine = e.addresses[:1], "localhost:1" // whatever runs on this machine
	t.Cleanup(e.Close)
	return e, l
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// until polls what another process does.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// An installed exporter is started, read, and ended.
func TestExporterIsStarted(t *testing.T) {
	dir := dcgmtest.Install(t, "dcgm-exporter")
	dcgmtest.Write(t, dir, dcgmtest.MetricsFile, dcgmtest.Exposition(97, first))
	port := freePort(t)
	e, l := newExporter(t, port)
	if text := e.Text(t.Context()); text != nil {
		t.Errorf("before it is started: %s", text)
	}
	var text []byte
	until(t, "the exporter answers", func() bool { text = e.Text(t.Context()); return text != nil })
	if diff := cmp.Diff(dcgmtest.Exposition(97, first), string(text)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	dcgmtest.Write(t, dir, dcgmtest.MetricsFile, dcgmtest.Exposition(3, first))
	until(t, "it says something else", func() bool { return string(e.Text(t.Context())) == dcgmtest.Exposition(3, first) })
	e.Close()
	if c, err := net.Dial("tcp", net.JoinHostPort("localhost", strconv.Itoa(port))); err == nil {
		c.Close()
		t.Error("the exporter still runs")
	}
	if strings.Count(l.String(), "\n") != 1 {
		t.Errorf("logged:\n%s", l)
	}
}

// One that runs already is read, and no other is started.
func TestExporterThatRuns(t *testing.T) {
	dir := script(t, "dcgm-exporter", `touch "$(dirname "$0")/started"`)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, dcgmtest.Exposition(97, first))
	}))
	defer srv.Close()
	e, _ := newExporter(t, srv.Listener.Addr().(*net.TCPAddr).Port)
	e.addresses[0] = srv.Listener.Addr().String()
	if text := e.Text(t.Context()); string(text) != dcgmtest.Exposition(97, first) {
		t.Errorf("%s", text)
	}
	if _, err := os.Stat(filepath.Join(dir, "started")); err == nil {
		t.Error("another was started")
	}
}

// An exporter shares the host engine that runs, or the one that it is told of.
func TestExporterSharesAnEngine(t *testing.T) {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, c := range map[string]struct{ configured, running, want string }{
		"none":    {"", "localhost:1", ""},
		"running": {"", l.Addr().String(), " -r " + l.Addr().String()},
		"told":    {"10.0.0.1:5555", l.Addr().String(), " -r 10.0.0.1:5555"},
	} {
		dir := script(t, "dcgm-exporter", `[ "$1" = -v ] || echo "$@" >"$(dirname "$0")/args"`)
		e, _ := newExporter(t, 1)
		e.Engine, e.usualEngine = c.configured, c.running
		e.Text(t.Context())
		<-e.ended
		args, err := os.ReadFile(filepath.Join(dir, "args"))
		want := "-f " + filepath.Join(e.Dir, "dcgm-counters.csv") + " -a localhost:1 -c 100" + c.want + "\n"
		if err != nil || string(args) != want {
			t.Errorf("%s: %v, started with %s, want %s", name, err, args, want)
		}
	}
}

// What cannot be had is said once, and is not tried without end.
func TestExporterThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		program string // "": none is installed
		logged  string
	}{
		"absent":          {"", "none is installed"},
		"broken":          {"echo 'libdcgm.so.4: cannot open shared object file' >&2; exit 3", "dcgm-exporter does not work"},
		"ends":            {`[ "$1" = -v ] || { echo "no GPUs were found" >&2; exit 1; }`, "no GPUs were found"},
		"says a version ": {`[ "$1" = -v ] || exit 1; while :; do echo version-version-version-version; done`, "prints more than"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.program == "" {
				t.Setenv("PATH", t.TempDir())
			} else {
				script(t, "dcgm-exporter", c.program)
			}
			e, l := newExporter(t, freePort(t))
			for range 3 {
				if text := e.Text(t.Context()); text != nil {
					t.Errorf("text: %s", text)
				}
			}
			until(t, "it is logged", func() bool { return strings.Contains(l.String(), c.logged) })
			if n := strings.Count(l.String(), c.logged); n != 1 {
				t.Errorf("logged %d times:\n%s", n, l)
			}
		})
	}
}

// An exporter that says too much, another thing, or nothing, gives no text.
func TestExporterThatLies(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for name, answer := range map[string]http.HandlerFunc{
		"too much": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte("DCGM_FI_X 1\n"), maxText/12+1))
		},
		"another thing": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "node_load1 3") },
		"an error": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "DCGM_ is away", http.StatusServiceUnavailable)
		},
	} {
		srv := httptest.NewServer(answer)
		e, _ := newExporter(t, 1)
		e.addresses[0] = srv.Listener.Addr().String()
		if text := e.Text(t.Context()); text != nil {
			t.Errorf("%s: %d bytes", name, len(text))
		}
		srv.Close()
	}
}
