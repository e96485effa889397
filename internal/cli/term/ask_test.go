package term

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// TestRedrawFits: what is redrawn must not wrap or scroll, for nothing of it could be removed then.
func TestRedrawFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		tty := New(nil, &out, &out)
		tty.ErrTTY, tty.OutTTY = true, true
		tty.Columns, tty.Rows = func() int { return 20 }, func() int { return 4 }
		l := tty.Wait("Launching hi...\nno host answers, and more")
		l.Set("Launching hi...\nno host answers, and more", "1", "2", "3", "4")
		time.Sleep(150 * time.Millisecond)
		l.Close()
		if got, want := out.String(), "⠋ Launching hi...…\n1\n...\n\x1b[3A\x1b[J"; got != want {
			t.Errorf("spinner = %q, want %q", got, want)
		}
		out.Reset()
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		defer cancel()
		err := tty.Watch(ctx, 100*time.Millisecond, func(context.Context) ([]string, error) {
			return []string{"1", "2", "3", "4"}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := out.String(), "1\n2\n...\n\x1b[3A\x1b[J1\n2\n...\n"; got != want {
			t.Errorf("table = %q, want %q", got, want)
		}
	})
}

type passing struct{ error }

func (passing) Temporary() bool { return true }

// TestWatchSurvives: a table stays while the server is away for a moment.
func TestWatchSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		n := 0
		err := New(nil, &out, &out).Watch(t.Context(), time.Second, func(context.Context) ([]string, error) {
			n++
			switch n {
			case 2:
				return nil, fmt.Errorf("list: %w", passing{errors.New("refused")})
			case 3:
				return nil, errors.New("access denied")
			}
			return []string{"row"}, nil
		})
		if err == nil || err.Error() != "access denied" {
			t.Errorf("Watch = %v, want the error that does not pass", err)
		}
		if got, want := out.String(), "row\nrow\n"+Unanswered+"\n"; got != want {
			t.Errorf("output = %q, want %q", got, want)
		}
	})
}
