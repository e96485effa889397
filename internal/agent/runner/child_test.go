package runner

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A process that is looked at while it begins is taken for itself later, and for nothing else.
func TestIsStill(t *testing.T) {
	whole := program(os.Getpid())
	if len(whole) < 64 {
		t.Fatalf("the auxiliary vector has %d bytes", len(whole))
	}
	for n := 0; n <= len(whole); n += 8 { // as far as the kernel has come
		if begun := strings.TrimRight(whole[:n], "\x00"); !isStill(begun, whole) {
			t.Errorf("after %d bytes it is another", n)
		}
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it runs: the kernel has not only begun to start it
		t.Fatal(err)
	}
	if other := program(cmd.Process.Pid); other == "" || isStill(whole, other) || isStill(other, whole) {
		t.Errorf("two programs are one: %q and %q", whole, other)
	}
}
