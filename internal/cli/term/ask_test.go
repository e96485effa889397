package term

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestConfirm(t *testing.T) {
	for name, tt := range map[string]struct {
		in   string
		want bool
		err  string
	}{
		"yes":           {"y\n", true, ""},
		"no":            {"N\n", false, ""},
		"asked again":   {"what\n\nyes\n", true, ""},
		"last line":     {"y", true, ""},
		"nobody":        {"", false, "pass -y"},
		"only nonsense": {"x\n", false, "pass -y"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			got, err := New(strings.NewReader(tt.in), &out, &out).Confirm(t.Context(), "Stop the run?", "-y")
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Confirm(%q) = %v, %v, want %v, %q", tt.in, got, err, tt.want, tt.err)
			}
			if !strings.HasPrefix(out.String(), "Stop the run? [y/n]: ") {
				t.Errorf("question = %q", out.String())
			}
		})
	}
}

func TestConfirmCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, w := io.Pipe()
	defer func() { _ = w.Close() }()
	if _, err := New(r, io.Discard, io.Discard).Confirm(ctx, "?", "-y"); !errors.Is(err, ErrCancelled) {
		t.Errorf("Confirm after Ctrl+C = %v, want ErrCancelled", err)
	}
}

func TestWaitWithoutTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := New(nil, &out, &out).Wait("Launching hi...")
		time.Sleep(3 * time.Second)
		l.Set("Launching hi... pulling 1/2GB")
		time.Sleep(20 * time.Second)
		l.Close()
		want := "Launching hi... (1s)\nLaunching hi... pulling 1/2GB (11s)\n"
		if got := out.String(); got != want {
			t.Errorf("talk = %q, want %q", got, want)
		}
	})
}

func TestWaitIsQuietWhenFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := New(nil, &out, &out).Wait("Working...")
		time.Sleep(500 * time.Millisecond)
		l.Close()
		if out.Len() != 0 {
			t.Errorf("talk = %q, want none", out.String())
		}
	})
}

func TestWaitOnTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		tty := New(nil, &out, &out)
		tty.ErrTTY = true
		l := tty.Wait("Working...")
		l.Set("Working...", "row")
		time.Sleep(150 * time.Millisecond)
		l.Close()
		want := "⠋ Working...\nrow\n\x1b[2A\x1b[J"
		if got := out.String(); got != want {
			t.Errorf("screen = %q, want %q", got, want)
		}
	})
}
