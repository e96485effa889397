package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"dstack/internal/sshkey"
)

const (
	simulatorPort = 2222
	// perProcess is how many hosts one process of bench/hosts pretends to be: each takes two
	// file descriptors while it is connected.
	perProcess = 2500
)

// address is that of the n-th simulated host, as bench/hosts has it.
func address(n int) string {
	return netip.AddrFrom4([4]byte{127, byte(64 + n>>16), byte(n >> 8), byte(n)}).String()
}

// simulator is processes of bench/hosts.
type simulator struct {
	key       sshkey.Pair
	processes []*process
}

type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startSimulator(ctx context.Context, o options) (*simulator, error) {
	key, err := sshkey.Generate("bench")
	if err != nil {
		return nil, err
	}
	hash, err := fileHash(o.Agent)
	if err != nil {
		return nil, err
	}
	s := &simulator{key: key}
	for first := 0; first < o.Scale.Hosts; first += perProcess {
		p, err := startProcess(ctx, o.Simulator, "-first", strconv.Itoa(first), "-count", strconv.Itoa(min(perProcess, o.Scale.Hosts-first)),
			"-port", strconv.Itoa(simulatorPort), "-hash", hash)
		if err != nil {
			s.close()
			return nil, err
		}
		s.processes = append(s.processes, p)
	}
	return s, nil
}

func startProcess(ctx context.Context, path string, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return nil, fmt.Errorf("start simulated hosts: %w", err)
	}
	p := &process{cmd, in, bufio.NewScanner(out)}
	if !p.out.Scan() || p.out.Text() != "ready" {
		_ = cmd.Wait()
		return nil, errors.New("start simulated hosts: they are not ready")
	}
	return p, nil
}

func fileHash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the agent: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read the agent: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (s *simulator) close() {
	for _, p := range s.processes {
		p.in.Close()
		_ = p.cmd.Wait() // it was told to
	}
}

// simulated is what the hosts know of themselves; see bench/hosts.
type simulated struct {
	Hosts, Connected, Tasks int
	Megabytes               float64
}

func (s *simulator) stats() (simulated, error) {
	var sum simulated
	for _, p := range s.processes {
		if _, err := io.WriteString(p.in, "\n"); err != nil {
			return sum, fmt.Errorf("ask simulated hosts: %w", err)
		}
		if !p.out.Scan() {
			return sum, errors.New("ask simulated hosts: they are gone")
		}
		var one simulated
		if err := json.NewDecoder(strings.NewReader(p.out.Text())).Decode(&one); err != nil {
			return sum, fmt.Errorf("ask simulated hosts: %w", err)
		}
		sum.Hosts += one.Hosts
		sum.Connected += one.Connected
		sum.Tasks += one.Tasks
		sum.Megabytes += one.Megabytes
	}
	return sum, nil
}

// connected waits until so many hosts have the server on the line.
func (s *simulator) connected(ctx context.Context, n int, limit time.Duration) error {
	now := simulated{}
	for begin := time.Now(); time.Since(begin) < limit && ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		var err error
		if now, err = s.stats(); err != nil || now.Connected == n {
			return err
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("%d of %d hosts are connected, after %v at most", now.Connected, n, limit))
}
