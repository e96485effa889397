package instance

import (
	"errors"
	"strings"
	"testing"

	"dstack/internal/store"
)

// TestDamagedHost says of a host whose record is lost what may be left on it; a machine is deleted.
func TestDamagedHost(t *testing.T) {
	for host, want := range map[string]bool{"10.0.0.7": true, "": false} {
		i := Instance{SSHHost: host}
		if err := i.whole(&store.Damage{Err: errors.New("no JSON")}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(i.Data.Problem, "containers of jobs may run on"); got != want {
			t.Errorf("host %q: %s", host, i.Data.Problem)
		}
	}
}
