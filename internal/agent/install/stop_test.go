package install

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// An agent whose supervisor was killed is ended all the same, and nothing else that has the id of one.
func TestStopSupervised(t *testing.T) {
	home := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		ends bool
	}{
		"an agent":       {[]string{"shim", "--home", home, "--runtime", "docker"}, true},
		"another home's": {[]string{"shim", "--home", home + "2", "--runtime", "docker"}, false},
		"something else": {[]string{"x"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sh", append([]string{"-c", "while :; do sleep 0.1; done"}, c.args...)...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				_ = cmd.Wait() // it is killed
				close(ended)
			}()
			t.Cleanup(func() {
				_ = cmd.Process.Kill() // unless it has ended
				<-ended
			})
			if err := os.WriteFile(filepath.Join(home, "lock"), fmt.Append(nil, cmd.Process.Pid), 0o600); err != nil {
				t.Fatal(err)
			}
			stopSupervised(home)
			wait := 200 * time.Millisecond
			if c.ends {
				wait = 10 * time.Second
			}
			select {
			case <-ended:
				if !c.ends {
					t.Error("it was ended")
				}
			case <-time.After(wait):
				if c.ends {
					t.Error("it runs on")
				}
			}
		})
	}
}
