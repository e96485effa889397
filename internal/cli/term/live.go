package term

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-runewidth"
)

const (
	frameEvery = 100 * time.Millisecond
	// quiet is how long something may take before it is worth a word.
	quiet = time.Second
	// Unanswered is what is said while a server cannot be reached and is tried again.
	Unanswered = "No answer from the server, trying again..."

	// sayEvery bounds how often changing progress is repeated where lines cannot be redrawn.
	sayEvery = 10 * time.Second
)

var frames = [...]string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// Live shows what a command waits for: on a terminal a spinner line with elapsed time and a block beneath,
// redrawn in place and removed at the end; elsewhere a plain line when the text changes, after a second.
// Methods may be called from any goroutine.
type Live struct {
	t     *IO
	start time.Time
	stop  chan struct{}
	done  sync.WaitGroup

	mu    sync.Mutex
	text  string
	block []string
	drawn int // lines on the screen
	said  string
	last  time.Time
	ended bool
}

// Wait shows text until the returned Live is closed.
func (t *IO) Wait(text string) *Live {
	l := &Live{t: t, start: time.Now(), text: text, stop: make(chan struct{})}
	l.done.Go(l.run)
	return l
}

// While shows text as long as f runs.
func (t *IO) While(text string, f func() error) error {
	l := t.Wait(text)
	defer l.Close()
	return f()
}

// Set replaces the text and the block beneath it.
func (l *Live) Set(text string, block ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text, l.block = text, block
}

// Above removes the display, lets f print, and shows the display again beneath what was printed.
func (l *Live) Above(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	f()
}

// Close removes the display. It may be called more than once.
func (l *Live) Close() {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.ended = true
	close(l.stop)
	l.mu.Unlock()
	l.done.Wait()
	l.clear()
}

func (l *Live) run() {
	tick := time.NewTicker(frameEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		case now := <-tick.C:
			l.mu.Lock()
			if l.t.ErrTTY {
				l.draw(n, now)
			} else {
				l.say(now)
			}
			l.mu.Unlock()
		}
	}
}

func (l *Live) draw(n int, now time.Time) {
	took := ""
	if d := now.Sub(l.start); d >= 2*quiet {
		took = elapsed(d)
	}
	text := runewidth.Truncate(oneLine(l.text), l.t.Width()-len(took)-4, "…") // a wrapped line could not be removed
	line := l.t.Paint(Purple, frames[n%len(frames)]) + " " + text
	if took != "" {
		line += " " + l.t.Paint(Secondary, took)
	}
	lines := l.t.fit(append([]string{line}, l.block...))
	l.clear()
	l.t.Sayf("%s\n", strings.Join(lines, "\n"))
	l.drawn = len(lines)
}

// say repeats nothing and speaks of a new state at most every sayEvery.
func (l *Live) say(now time.Time) {
	d := now.Sub(l.start)
	if d < quiet || l.text == l.said || !l.last.IsZero() && now.Sub(l.last) < sayEvery {
		return
	}
	l.t.Sayf("%s (%s)\n", oneLine(l.text), elapsed(d))
	l.said, l.last = l.text, now
}

func (l *Live) clear() {
	if l.drawn > 0 {
		l.t.Sayf("\x1b[%dA\x1b[J", l.drawn)
		l.drawn = 0
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func elapsed(d time.Duration) string {
	if s := int(d.Seconds()); s < 60 {
		return fmt.Sprintf("%ds", s)
	}
	return fmt.Sprintf("%dm %02ds", int(d.Minutes()), int(d.Seconds())%60)
}

// Watch shows what render returns and replaces it every interval until ctx ends; the end of ctx is not an error.
// Without a terminal each rendering follows the one before. After an error that calls itself temporary the last
// rendering stays, with a word about that.
func (t *IO) Watch(ctx context.Context, every time.Duration, render func(context.Context) ([]string, error)) error {
	drawn := 0
	var last []string
	for {
		lines, err := render(ctx)
		if ctx.Err() != nil {
			return nil
		}
		temporary, ok := errors.AsType[interface {
			error
			Temporary() bool
		}](err)
		switch {
		case err == nil:
			last = lines
		case !ok || !temporary.Temporary() || last == nil:
			return err
		default:
			lines = append(slices.Clone(last), t.Paint(Warning, Unanswered))
		}
		if t.OutTTY {
			lines = t.fit(lines)
			if drawn > 0 {
				t.Printf("\x1b[%dA\x1b[J", drawn)
			}
		}
		t.Println(strings.Join(lines, "\n"))
		drawn = len(lines)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}
