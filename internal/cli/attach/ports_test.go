package attach

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/recorded"
)

// The recorded cases are which local ports the published client chooses.
func TestReserveRecorded(t *testing.T) {
	type row struct {
		In    [][2]*int // of the job and, where one is asked for, local
		Busy  []int
		Out   [][2]int
		Error string
	}
	recorded.Rows(t, "testdata/ports-assign.jsonl", func(t *testing.T, r row) {
		var ports []Port
		for _, p := range r.In {
			port := Port{Remote: *p[0]}
			if p[1] != nil {
				port.Local = *p[1]
			}
			ports = append(ports, port)
		}
		busy := r.Busy
		fs, err := reserve(ports, func(port int) ([]net.Listener, error) {
			if slices.Contains(busy, port) {
				return nil, syscall.EADDRINUSE
			}
			busy = append(busy, port)
			return nil, nil
		})
		msg := ""
		if in, ok := errors.AsType[*PortInUseError](err); ok {
			msg = fmt.Sprintf("Port %d is already in use", in.Port)
		}
		got := [][2]int{}
		for _, f := range fs {
			got = append(got, [2]int{f.Remote, f.Local})
		}
		slices.SortFunc(got, func(a, b [2]int) int { return a[0] - b[0] })
		if r.Out == nil {
			r.Out = [][2]int{}
		}
		if diff := cmp.Diff(r.Out, got); msg != r.Error || diff != "" {
			t.Errorf("%v: error %v (-recorded +got):\n%s", ports, err, diff)
		}
	})
}
