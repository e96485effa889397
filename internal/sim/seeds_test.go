package sim

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seeds  = flag.Int("seeds", 50, "how many seeds TestSeeds runs")
	from   = flag.Uint64("from", 1, "the first seed of TestSeeds")
	traced = flag.Bool("story", false, "tell the whole story of each seed")
)

// childEnv makes TestSeeds run a share of the seeds and write results as lines of JSON.
const childEnv = "SIM_CHILD"

// TestSeeds runs the worlds of many seeds. Each core gets a process of its own with one
// thread, so that the order of goroutines depends on the seed as far as Go allows.
func TestSeeds(t *testing.T) {
	if share := os.Getenv(childEnv); share != "" {
		runShare(t, share)
		return
	}
	if *from == 0 {
		t.Fatal("seeds begin with 1: the ids of 0 are those of the template")
	}
	began := time.Now()
	var mu sync.Mutex
	var sum result
	failed, done := 0, 0
	sum.Injected = map[string]int{}
	take := func(r result) {
		mu.Lock()
		defer mu.Unlock()
		done++
		sum.Steps += r.Steps
		for k, n := range r.Injected {
			sum.Injected[k] += n
		}
		if len(r.Violations) > 0 {
			failed++
			for _, v := range r.Violations {
				t.Errorf("seed %d: %s", r.Seed, v)
			}
			if failed <= 3 {
				t.Logf("seed %d:\n%s", r.Seed, r.Trace)
			}
		} else if *traced {
			t.Logf("seed %d:\n%s", r.Seed, r.Trace)
		}
	}
	var wg sync.WaitGroup
	workers := min(runtime.NumCPU(), *seeds)
	for n := range workers {
		wg.Go(func() {
			if err := startShare(t, n, workers, take); err != nil {
				t.Errorf("worker %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	if done != *seeds {
		t.Errorf("%d of %d seeds ran", done, *seeds)
	}
	t.Logf("%d seeds from %d in %.1fs, %d events looked at, %d seeds with violations", done, *from, time.Since(began).Seconds(), sum.Steps, failed)
	for _, k := range slices.Sorted(maps.Keys(sum.Injected)) {
		t.Logf("%8d  %s", sum.Injected[k], k)
	}
}

// startShare runs every step-th seed from n on in a process of its own.
func startShare(t *testing.T, n, step int, take func(result)) error {
	args := []string{"-test.run=^TestSeeds$", "-test.timeout=0", "-seeds", strconv.Itoa(*seeds), "-from", strconv.FormatUint(*from, 10)}
	if *traced {
		args = append(args, "-story")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d/%d", childEnv, n, step), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	rest := ""
	for lines.Scan() {
		var r result
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			rest += lines.Text() + "\n"
			continue
		}
		take(r)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, rest)
	}
	return lines.Err()
}

func runShare(t *testing.T, share string) {
	var n, step int
	if _, err := fmt.Sscanf(share, "%d/%d", &n, &step); err != nil {
		t.Fatal(err)
	}
	// The collector stops goroutines in the middle of a moment, which changes their order: it
	// works between the worlds, after each fourth.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(1 << 30) // bytes; a world takes a fiftieth
	tp := newTemplate(t)
	for i := n; i < *seeds; i += step {
		if (i-n)/step%4 == 0 {
			runtime.GC()
		}
		r := runSeed(t, *from+uint64(i), tp)
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(string(data))
	}
}

// runSeed runs the world of one seed.
func runSeed(t *testing.T, seed uint64, tp template) (r result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := live(t, seed, tp, nil, *traced)
		r = w.result(*traced)
		w.end()
	})
	return r
}
