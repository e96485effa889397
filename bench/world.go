package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const token = "bench-admin-token"

// world is a server with its client, in a folder of its own.
type world struct {
	dir    string
	dstack string
	port   int
	server *exec.Cmd
	// profiles is the folder for profiles of the server, "" for none.
	profiles string
}

// profileAddr is where the server answers the profiler when there is a folder for profiles.
const profileAddr = "127.0.0.1:6060"

func newWorld(dstack string) (*world, error) {
	dir, err := os.MkdirTemp("", "dstack-bench")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a port: %w", err)
	}
	defer l.Close()
	dstack, err = filepath.Abs(dstack)
	return &world{dir: dir, dstack: dstack, port: l.Addr().(*net.TCPAddr).Port}, errors.Join(err, os.MkdirAll(filepath.Join(dir, "home"), 0o755))
}

func (w *world) close() {
	w.stop()
	_ = os.RemoveAll(w.dir) // temporary
}

func (w *world) url() string { return fmt.Sprintf("http://127.0.0.1:%d", w.port) }

func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.dstack, args...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "HOME="+filepath.Join(w.dir, "home"), "DSTACK_SERVER_DIR="+filepath.Join(w.dir, "server"), "TERM=dumb", "DSTACK_CLI_LOG_LEVEL=ERROR")
	return cmd
}

// start starts the server and returns how long it took to answer.
func (w *world) start(ctx context.Context, more ...string) (time.Duration, error) {
	log, err := os.OpenFile(filepath.Join(w.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	w.server = w.command(context.WithoutCancel(ctx), append([]string{"server", "--host", "127.0.0.1", "--port", strconv.Itoa(w.port), "--token", token}, more...)...)
	w.server.Stdout, w.server.Stderr = log, log
	if w.profiles != "" {
		w.server.Env = append(w.server.Env, "DSTACK_SERVER_PROFILE="+profileAddr)
	}
	begin := time.Now()
	if err := w.server.Start(); err != nil {
		return 0, fmt.Errorf("start the server: %w", err)
	}
	for time.Since(begin) < time.Minute {
		if resp, err := http.Get(w.url() + "/healthcheck"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(begin), nil
			}
		}
		pause(ctx, time.Millisecond)
	}
	return 0, fmt.Errorf("the server does not answer: %s", tail(log.Name()))
}

func tail(path string) string {
	data, _ := os.ReadFile(path)
	return string(data[max(0, len(data)-2000):])
}

func (w *world) stop() {
	if w.server == nil {
		return
	}
	_ = w.server.Process.Signal(syscall.SIGTERM)
	_ = w.server.Wait() // it was told to
	w.server = nil
}

// must runs a command and returns how long it took.
func (w *world) must(ctx context.Context, args ...string) (time.Duration, error) {
	var out bytes.Buffer
	cmd := w.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return time.Since(begin), nil
}

// line runs a command until it prints a line, and returns how long that took. The command is
// waited for.
func (w *world) line(ctx context.Context, want string, args ...string) (time.Duration, error) {
	cmd := w.command(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("read the output: %w", err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", args[0], err)
	}
	var took time.Duration
	scan := bufio.NewScanner(out)
	for scan.Scan() {
		if took == 0 && strings.TrimSpace(scan.Text()) == want {
			took = time.Since(begin)
		}
	}
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	if took == 0 {
		return 0, fmt.Errorf("%s never printed %q", strings.Join(args, " "), want)
	}
	return took, nil
}

func (w *world) api(ctx context.Context, path string, body, out any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url()+path, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("%s: %d %s", path, resp.StatusCode, text)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

type runState struct {
	Status      string    `json:"status"`
	SubmittedAt time.Time `json:"submitted_at"`
}

// until polls a run until it has a status, and returns when that was seen.
func (w *world) until(ctx context.Context, name string, statuses ...string) (runState, time.Time, error) {
	var r runState
	for begin := time.Now(); time.Since(begin) < time.Minute; pause(ctx, 2*time.Millisecond) {
		if err := w.api(ctx, "/api/project/main/runs/get", map[string]any{"run_name": name}, &r); err != nil {
			return r, time.Time{}, err
		}
		for _, s := range statuses {
			if r.Status == s {
				return r, time.Now(), nil
			}
		}
	}
	return r, time.Time{}, fmt.Errorf("run %s is %s, not %v, after a minute", name, r.Status, statuses)
}

func (w *world) write(name, text string) (string, error) {
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return path, os.WriteFile(path, []byte(text), 0o600)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// usage is the memory of a process in MB, and the processor time that it has used.
func usage(pid int) (megabytes float64, busy time.Duration, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			megabytes = kb / 1024
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read processor time: %w", err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] { // user and system time, in hundredths of a second
		n, _ := strconv.ParseInt(f, 10, 64)
		ticks += n
	}
	return megabytes, time.Duration(ticks) * 10 * time.Millisecond, nil
}
