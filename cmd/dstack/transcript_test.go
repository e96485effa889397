package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/cli"
	"dstack/internal/cli/program"
	"dstack/internal/cli/servercmd"
	"dstack/internal/cli/term"
)

var update = flag.Bool("update", false, "write what the commands print into testdata/*.txt")

// TestTranscripts plays what a user types in testdata/*.txt against a server of its own, and compares what comes back.
// A line "$ dstack …" is a command; "$ echo WORDS | dstack …" gives it input. Its output follows, then its exit code
// if that is not 0. $URL and $TOKEN are the server's. Lines that begin with # are comments. Every command runs in a copy of testdata/files.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			path := filepath.Join(here, name)
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := newUser(t, filepath.Join(here, "testdata", "files")).replay(t, string(want))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got), go test ./cmd/dstack -update rewrites it:\n%s", name, diff)
			}
		})
	}
}

// A user has a home directory, a working directory and a server.
type user struct {
	home, dir, url string
}

const adminToken = "transcript-admin"

func newUser(t *testing.T, files string) *user {
	t.Helper()
	u := &user{home: t.TempDir(), dir: t.TempDir()}
	if err := os.CopyFS(u.dir, os.DirFS(files)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(u.dir)
	said := &screen{lines: make(chan string, 1)}
	p := u.program(strings.NewReader(""), said)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var ended error
	wg.Go(func() {
		ended = startServer(ctx, p, servercmd.Flags{Host: "127.0.0.1", LogLevel: "ERROR", Token: adminToken})
		close(said.lines)
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if ended != nil {
			t.Errorf("the server: %v", ended)
		}
	})
	_, after, ok := strings.Cut(<-said.lines, " is running at ")
	if !ok {
		wg.Wait()
		t.Fatalf("the server does not start: %v", ended)
	}
	u.url = strings.TrimSpace(after)
	return u
}

// screen passes on the line that says where the server runs.
type screen struct{ lines chan string }

func (s *screen) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("is running at")) {
		s.lines <- string(b)
	}
	return len(b), nil
}

func (u *user) program(in io.Reader, out io.Writer) *program.Program {
	streams := term.New(in, out, out)
	streams.Getenv = func(name string) string {
		return map[string]string{"DSTACK_SERVER_DIR": filepath.Join(u.home, "server")}[name]
	}
	return &program.Program{IO: streams, Home: u.home, Version: "1.2.3"}
}

// replay returns the transcript with what the commands print now.
func (u *user) replay(t *testing.T, transcript string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(transcript) {
		words, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case isCommand:
			out, code := u.run(t, strings.TrimSpace(words))
			if b.Len() > 0 && !strings.HasSuffix(b.String(), "\n\n") && !strings.HasPrefix(lastLine(b.String()), "#") {
				b.WriteString("\n")
			}
			b.WriteString(line + out)
			if code != 0 {
				fmt.Fprintf(&b, "[exit %d]\n", code)
			}
		case strings.HasPrefix(line, "#"):
			if b.Len() > 0 && !strings.HasPrefix(lastLine(b.String()), "#") {
				b.WriteString("\n")
			}
			b.WriteString(line)
		}
	}
	return b.String()
}

func lastLine(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return s[strings.LastIndex(s, "\n")+1:]
}

func (u *user) run(t *testing.T, line string) (string, int) {
	t.Helper()
	input, command, piped := strings.Cut(line, " | ")
	if !piped {
		input, command = "", line
	} else {
		input = strings.TrimPrefix(input, "echo ") + "\n"
	}
	args := strings.Fields(strings.NewReplacer("$URL", u.url, "$TOKEN", adminToken).Replace(command))
	if len(args) == 0 || args[0] != "dstack" {
		t.Fatalf("%q is no command", line)
	}
	var out bytes.Buffer
	code := cli.Main(t.Context(), cli.Config{Program: u.program(strings.NewReader(input), &out), Commands: cli.Commands(startServer)}, args[1:])
	return u.normal(out.String()), code
}

var (
	uuids  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)
	stamps = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+Z)?`)
	ages   = regexp.MustCompile(`\b(now|\d+ sec ago)\n`)
	clocks = regexp.MustCompile(`\b\d\d:\d\d( |\n)`)
)

// normal replaces what differs between two runs of a test.
func (u *user) normal(s string) string {
	s = strings.ReplaceAll(s, u.url+" ", fmt.Sprintf("%-*s", len("http://127.0.0.1:65535"), "$URL")+" ") // in a table
	s = strings.NewReplacer(u.url, "$URL", u.home, "$HOME", u.dir, "$PWD").Replace(s)
	s = uuids.ReplaceAllString(s, "UUID")
	s = stamps.ReplaceAllString(s, "TIME")
	s = ages.ReplaceAllString(s, "now\n")
	s = clocks.ReplaceAllString(s, "HH:MM$1")
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if s = strings.TrimRight(b.String(), "\n"); s == "" {
		return ""
	}
	return s + "\n"
}
