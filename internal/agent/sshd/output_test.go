package sshd

import (
	"io"
	"os"
	"testing"
)

// What lies in a pipe is read after all the time for what may come has passed, as when the reader gets no
// processor; what is not there is not waited for.
func TestOutputLate(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.WriteString("end"); err != nil {
		t.Fatal(err)
	}
	out := NewOutput(r)
	out.CommandEnded()
	out.waited = lingering
	if got, err := io.ReadAll(out); string(got) != "end" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}
