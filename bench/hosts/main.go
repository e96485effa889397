// Command hosts pretends to be many machines with an agent, for the scale benchmark: each has
// an address of its own on the loopback network, an SSH server with its own host key there,
// and the agent's API behind it. Everything that the server of dstack sends goes over real SSH
// connections; only what would run on the machine is made up.
//
// It prints "ready" once it listens. Each line on stdin is answered by one line of JSON, see
// [stats]; it ends with stdin.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	var o options
	flag.IntVar(&o.First, "first", 0, "number of the first host")
	flag.IntVar(&o.Count, "count", 100, "how many hosts")
	flag.IntVar(&o.Port, "port", 2222, "port of their SSH servers")
	flag.StringVar(&o.Hash, "hash", "", "SHA-256 of the agent that they say they run; another than the server's is replaced")
	flag.DurationVar(&o.Job, "job", 50*time.Millisecond, "how long a job takes that does not sleep")
	flag.Parse()
	debug.SetGCPercent(50) // memory is what limits how many hosts fit beside the server
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "hosts:", err)
		os.Exit(1)
	}
}

type options struct {
	First, Count, Port int
	Hash               string
	Job                time.Duration
}

// Addr is the address of the n-th host.
func Addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(64 + n>>16), byte(n >> 8), byte(n)})
}

func run(o options) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hosts := make([]*machine, o.Count)
	for i := range hosts {
		m, err := listen(o, o.First+i)
		if err != nil {
			return err
		}
		hosts[i] = m
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range hosts {
		g.Go(func() error { return m.serve(ctx) })
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := json.NewEncoder(os.Stdout).Encode(measure(hosts)); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	cancel()
	return g.Wait()
}

// stats are what a process of hosts knows of itself.
type stats struct {
	Hosts     int     `json:"hosts"`
	Connected int     `json:"connected"` // hosts with an open event stream
	Tasks     int     `json:"tasks"`     // that were started
	Megabytes float64 `json:"megabytes"` // resident
}

func measure(hosts []*machine) stats {
	s := stats{Hosts: len(hosts), Megabytes: resident()}
	for _, m := range hosts {
		streams, tasks := m.agent.counts()
		s.Tasks += tasks
		if streams > 0 {
			s.Connected++
		}
	}
	return s
}

// resident is the memory of this process, in MB, 0 where that is not known.
func resident() float64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var kb float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kb); err == nil {
			return kb / 1024
		}
	}
	return 0
}
