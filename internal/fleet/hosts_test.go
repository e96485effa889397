package fleet

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"dstack/internal/config"
)

// Hosts are told apart by their names, and behind one address by their ports.
func TestHostChanges(t *testing.T) {
	hosts := func(text string) (list []config.SSHHost) {
		for _, word := range strings.Fields(text) {
			name, port, _ := strings.Cut(word, ":")
			h := config.SSHHost{Hostname: name}
			if n, err := strconv.Atoi(port); err == nil {
				h.Port = &n
			}
			list = append(list, h)
		}
		return list
	}
	for _, tt := range []struct{ old, now, want string }{
		{"a b", "a b", "[] []"},
		{"a b", "b c", "[1] [a]"},
		{"a:22", "a:23", "Hosts configuration changed, cannot update: ['a']"},
		{"nat:22 nat:23", "nat:22 nat:23", "[] []"},
		{"nat:22", "nat:22 nat:23", "[1] []"},
		{"nat:22 nat:23 b", "b nat:23", "[] [nat]"},
		{"nat:22 nat:23", "nat:22 nat:24", "Hosts configuration changed, cannot update: ['nat']"},
	} {
		add, remove, err := hostChanges(hosts(tt.old), hosts(tt.now))
		names := []string{}
		for _, h := range remove {
			names = append(names, h.Hostname)
		}
		got := fmt.Sprint(add, names)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("from %q to %q: %s, want %s", tt.old, tt.now, got, tt.want)
		}
	}
}
