package dcgm

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// OwnPort is where the exporter listens that an agent starts (host-agents 0.2).
	OwnPort = 10997
	// usualPort is where one listens that an operator has started.
	usualPort = 9400
	// Interval is how often an exporter looks at the GPUs.
	Interval = 5 * time.Second
	// fetchTimeout bounds a look at what it says.
	fetchTimeout = 10 * time.Second
	// maxText bounds what an exporter says of a host, in bytes.
	maxText = 8 << 20
	// startAgain spaces attempts to start one that ends.
	startAgain = time.Minute
	// usualEngine is where a host engine listens, engineTimeout how long it may take to accept.
	usualEngine   = "localhost:5555"
	engineTimeout = time.Second
	// stopTimeout is how long one may take to end.
	stopTimeout = 5 * time.Second
)

// counters are what an exporter of ours measures (host-agents 1.11).
//
//go:embed counters.csv
var counters []byte

// ExporterConfig is what NewExporter needs; fields are required unless marked optional.
type ExporterConfig struct {
	Dir      string        // where a file for the exporter may be
	Port     int           // optional: where ours listens; 0: OwnPort
	Interval time.Duration // optional: how often ours looks at the GPUs; 0: Interval
	Engine   string        // optional: the address of a host engine for ours; "": what runs here, or its own
	Log      *slog.Logger
}

// Exporter reads what a dcgm-exporter says: one that runs on the host, or else one that it starts.
// It is safe for concurrent use.
type Exporter struct {
	ExporterConfig
	addresses   []string
	usualEngine string
	http        *http.Client
	ctx         context.Context // of the process that was started
	stop        context.CancelFunc
	wg          sync.WaitGroup

	mu      sync.Mutex
	text    []byte
	at      time.Time // of text
	started time.Time
	ended   chan struct{} // of the process that was started last, closed when it has ended
	said    string        // why there is no text, as it was logged
}

// NewExporter starts nothing: see [Exporter.Text].
func NewExporter(c ExporterConfig) *Exporter {
	c.Port, c.Interval = cmp.Or(c.Port, OwnPort), cmp.Or(c.Interval, Interval)
	e := &Exporter{ExporterConfig: c, usualEngine: usualEngine, http: &http.Client{Timeout: fetchTimeout, Transport: &http.Transport{DisableKeepAlives: true}}}
	for _, port := range []int{c.Port, usualPort} {
		e.addresses = append(e.addresses, net.JoinHostPort("localhost", strconv.Itoa(port)))
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	return e
}

// Close ends the exporter that was started, if any.
func (e *Exporter) Close() {
	e.stop()
	e.wg.Wait()
}

// Text is what the host's exporter says now, nil when there is none: that is nothing odd, and is
// logged once. The text is shared: nobody changes it.
func (e *Exporter) Text(ctx context.Context) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.text != nil && time.Since(e.at) < e.Interval {
		return e.text
	}
	e.text = nil
	text, err := e.fetch(ctx)
	if err != nil && ctx.Err() == nil {
		switch {
		case !e.running():
			err = e.start(ctx)
		case time.Since(e.started) < startAgain:
			err = nil // it is about to answer
		}
	}
	if err != nil {
		e.say(err)
		return nil
	}
	if text != nil {
		e.text, e.at, e.said = text, time.Now(), ""
	}
	return text
}

// say logs why there is no text, unless it has just been said.
func (e *Exporter) say(err error) {
	if e.ctx.Err() == nil && e.said != err.Error() {
		e.said = err.Error()
		e.Log.Info("there are no metrics of GPUs", "err", err)
	}
}

// errNone says that something else answers.
var errNone = errors.New("no exporter of DCGM answers")

// fetch asks the exporters that may be there.
func (e *Exporter) fetch(ctx context.Context) ([]byte, error) {
	err := errNone
	for _, address := range e.addresses {
		text, failed := e.get(ctx, address)
		if failed == nil && bytes.Contains(text, []byte("DCGM_")) {
			return text, nil
		}
		err = cmp.Or(failed, err)
	}
	return nil, err
}

func (e *Exporter) get(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxText+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", req.URL, err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("read %s: %s", req.URL, resp.Status)
	case len(text) > maxText:
		return nil, fmt.Errorf("read %s: there are more than %d bytes", req.URL, maxText)
	}
	return text, nil
}

func (e *Exporter) running() bool {
	if e.ended == nil {
		return false
	}
	select {
	case <-e.ended:
		return false
	default:
		return true
	}
}

// program is the exporter's name.
const program = "dcgm-exporter"

// start starts an exporter, which answers some seconds later. It does nothing when the last one
// was started a moment ago.
func (e *Exporter) start(ctx context.Context) error {
	if !e.started.IsZero() && time.Since(e.started) < startAgain {
		return nil
	}
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("none is installed: %w", err)
	}
	e.started = time.Now()
	if out, err := run(ctx, program, "-v"); err != nil {
		return fmt.Errorf("%s does not work: %w: %s", program, err, short(out))
	}
	file := filepath.Join(e.Dir, "dcgm-counters.csv")
	if err := os.WriteFile(file, counters, 0o644); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	args := []string{"-f", file, "-a", e.addresses[0], "-c", strconv.FormatInt(e.Interval.Milliseconds(), 10)}
	if engine := e.hostEngine(ctx); engine != "" {
		args = append(args, "-r", engine)
	}
	cmd := exec.CommandContext(e.ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	last := &tail{}
	cmd.Stdout, cmd.Stderr = last, last
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	e.Log.Info("an exporter of the GPUs' metrics is started", "address", e.addresses[0])
	ended := make(chan struct{})
	e.ended = ended
	e.wg.Go(func() {
		defer close(ended)
		if err := cmd.Wait(); e.ctx.Err() == nil {
			e.Log.Warn("the exporter of the GPUs' metrics has ended", "err", err, "output", short(last.end()))
		}
	})
	return nil
}

// hostEngine is the address of the engine for an exporter, "" for one of its own. Two engines
// on one host take the GPUs' profiling from each other, so that one which runs is used.
func (e *Exporter) hostEngine(ctx context.Context) string {
	if e.Engine != "" {
		return e.Engine
	}
	c, err := (&net.Dialer{Timeout: engineTimeout}).DialContext(ctx, "tcp", e.usualEngine)
	if err != nil {
		return ""
	}
	c.Close()
	return e.usualEngine
}

// tail keeps the last line of what is written, as far as it is short.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const maxTail = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-maxTail):]
	return len(p), nil
}

func (t *tail) end() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(t.text)
	return text[bytes.LastIndexByte(text, '\n')+1:]
}
