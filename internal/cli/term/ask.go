package term

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrCancelled means that the user pressed Ctrl+C at a question.
var ErrCancelled = errors.New("cancelled by user")

// An Exit ends the program with a code and without a message: what was to say has been said.
type Exit int

func (e Exit) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// Confirm asks a yes-or-no question until it is answered. Answers may be piped in; where the input ends without one,
// the error names the flag that answers. It returns [ErrCancelled] when ctx ends first.
func (t *IO) Confirm(ctx context.Context, question, flag string) (bool, error) {
	r := t.lines()
	for {
		t.Sayf("%s [y/n]: ", question)
		line, err := r.read(ctx)
		if !t.InTTY && err == nil {
			t.Say() // nobody's Enter did that
		}
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return true, nil
		case "n", "no":
			return false, nil
		}
		if errors.Is(err, io.EOF) {
			t.Say()
			return false, fmt.Errorf("nobody answered, there is no terminal: pass %s to answer yes", flag)
		}
		if err != nil {
			return false, err
		}
		t.Say("Please enter Y or N")
	}
}

// Prompt asks for a line; an empty answer means def.
func (t *IO) Prompt(ctx context.Context, question, def, flag string) (string, error) {
	t.Sayf("%s", question)
	line, err := t.lines().read(ctx)
	line = strings.TrimSpace(line)
	if errors.Is(err, io.EOF) && line == "" {
		t.Say()
		return "", fmt.Errorf("nobody answered, there is no terminal: pass %s", flag)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line == "" {
		line = def
	}
	return line, nil
}

// Choose lets the user pick one of the options by number and returns its index; first is offered as default.
func (t *IO) Choose(ctx context.Context, question string, options []string, first int, flag string) (int, error) {
	t.Say(question)
	for i, o := range options {
		mark := " "
		if i == first {
			mark = "*"
		}
		t.Sayf("%s %d. %s\n", mark, i+1, o)
	}
	for {
		s, err := t.Prompt(ctx, fmt.Sprintf("Number [%d]: ", first+1), strconv.Itoa(first+1), flag)
		if err != nil {
			return 0, err
		}
		if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= len(options) {
			return n - 1, nil
		}
		t.Sayf("Please enter a number from 1 to %d\n", len(options))
	}
}

type lineReader struct{ in *bufio.Reader }

// lines wraps In once, so that a question does not swallow the answer to the next.
func (t *IO) lines() lineReader {
	b, ok := t.In.(*bufio.Reader)
	if !ok {
		b = bufio.NewReader(t.In)
		t.In = b
	}
	return lineReader{b}
}

// read returns the next line, or ErrCancelled when ctx ends. A read of a terminal cannot be taken back:
// then its goroutine stays until the line arrives or the program ends.
func (r lineReader) read(ctx context.Context) (string, error) {
	type answer struct {
		line string
		err  error
	}
	c := make(chan answer, 1)
	go func() {
		line, err := r.in.ReadString('\n')
		c <- answer{line, err}
	}()
	select {
	case a := <-c:
		return a.line, a.err
	case <-ctx.Done():
		return "", ErrCancelled
	}
}
