// Package term is all that commands know about the terminal: streams, colours, tables, progress and questions.
//
// Results go to Out, talk (errors, progress, questions) to Err. Without a terminal nothing is coloured or redrawn.
// It is tested with byte buffers in place of the streams, see [New].
package term

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"

	xterm "golang.org/x/term"
)

// IO is where a command reads and writes. The zero value of each optional field means "not a terminal".
type IO struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer

	InTTY  bool // a person can answer
	OutTTY bool // Out may be redrawn
	ErrTTY bool // Err may be redrawn
	Color  bool

	// Columns is the width of Out; nil means 80.
	Columns func() int
	// Rows is the height of the terminal; nil means that it has no end.
	Rows func() int
	// Getenv reads the environment of the program; nil means that it is empty.
	Getenv func(string) string
	// Notify returns a context that ends at the next interrupt; nil means that there are none.
	Notify func(context.Context) (context.Context, context.CancelFunc)
}

// System returns the streams of this process.
func System() *IO {
	out := xterm.IsTerminal(int(os.Stdout.Fd()))
	return &IO{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTTY:   xterm.IsTerminal(int(os.Stdin.Fd())),
		OutTTY:  out,
		ErrTTY:  xterm.IsTerminal(int(os.Stderr.Fd())),
		Color:   out && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		Columns: columns,
		Rows:    func() int { _, n := size(); return n },
		Getenv:  os.Getenv,
		Notify: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return signal.NotifyContext(ctx, os.Interrupt)
		},
	}
}

func columns() int {
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	n, _ := size()
	return n
}

// size is that of the terminal which shows the results or, if they go elsewhere, the talk.
func size() (columns, rows int) {
	for _, f := range []*os.File{os.Stdout, os.Stderr} {
		if w, h, err := xterm.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w, h
		}
	}
	return 80, 0
}

// New returns streams that are not a terminal, 120 columns wide: what tests use.
func New(in io.Reader, out, errw io.Writer) *IO {
	return &IO{In: in, Out: out, Err: errw, Columns: func() int { return 120 }}
}

// Width is the number of columns of Out.
func (t *IO) Width() int {
	if t.Columns == nil {
		return 80
	}
	return max(t.Columns(), 20)
}

// fit cuts what would not fit on the terminal, so that it can be redrawn: nothing above the first row can be reached.
func (t *IO) fit(lines []string) []string {
	if t.Rows == nil {
		return lines
	}
	room := t.Rows() - 1 // the cursor stands beneath
	if room < 2 || len(lines) <= room {
		return lines
	}
	return append(slices.Clone(lines[:room-1]), "...")
}

// Env is the value of an environment variable, "" if unset.
func (t *IO) Env(name string) string {
	if t.Getenv == nil {
		return ""
	}
	return t.Getenv(name)
}

// Interruptible returns a context that outlives ctx and ends at the next Ctrl+C:
// for what remains to be done after the first one ended ctx.
func (t *IO) Interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx = context.WithoutCancel(ctx)
	if t.Notify == nil {
		return context.WithCancel(ctx)
	}
	return t.Notify(ctx)
}

// Println writes a line of the result.
func (t *IO) Println(a ...any) { _, _ = fmt.Fprintln(t.Out, a...) } // a broken pipe shows at the next read or at exit

// Printf writes a part of the result.
func (t *IO) Printf(format string, a ...any) { _, _ = fmt.Fprintf(t.Out, format, a...) } // as Println

// Say writes a line of talk.
func (t *IO) Say(a ...any) { _, _ = fmt.Fprintln(t.Err, a...) } // nobody is left to be told

// Sayf writes a part of the talk.
func (t *IO) Sayf(format string, a ...any) { _, _ = fmt.Fprintf(t.Err, format, a...) } // as Say
