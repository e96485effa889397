package attach

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"dstack/internal/cli/clientconfig"
)

// Attempts is how often a session tries to connect before it says that it can't.
const Attempts = 10

// attachedSuffix ends the name of the lock that an attached process holds, and notes its ports in.
const attachedSuffix = ".attached"

// A Session is one attached job: its entries in the SSH configuration and its tunnel.
type Session struct {
	Home     string
	Login    string // see [SSHConfig]
	Dir      clientconfig.Dir
	Route    Route
	Forwards []*Forward // owned by the session from [Open] on
	// Lazy sessions do not connect when there is nothing to forward: they just write the SSH configuration.
	Lazy bool
	// Warn is told about what did not work and does not matter enough to give up.
	Warn func(string)

	attempts int // 0 means Attempts

	tunnel *Tunnel
	cancel context.CancelFunc
	wg     sync.WaitGroup
	lock   *os.File // held by the process that owns the entries; nil if another one does
}

// Reserve opens the local ports of the session, see the function [Reserve]. A job whose localhost is ours, such as a plain
// process on this machine, serves its ports here already: to listen on them would take them from it, and forward them
// to themselves. They become forwards that need nothing done.
func (s *Session) Reserve(ctx context.Context, host string, ports []Port) error {
	var there []*Forward
	if len(ports) > 0 && s.Route.here() {
		shared, err := s.sharesNetwork(ctx)
		if err != nil {
			return err
		}
		if shared {
			there, ports = already(ports)
		}
	}
	fs, err := Reserve(ctx, host, ports)
	if err != nil {
		return err
	}
	s.Forwards = append(there, fs...)
	return nil
}

// already splits off the ports that need no forwarding where the job's localhost is ours.
func already(ports []Port) (there []*Forward, rest []Port) {
	for _, p := range ports {
		if p.Local == 0 || p.Local == p.Remote {
			there = append(there, &Forward{Local: p.Remote, Remote: p.Remote})
		} else {
			rest = append(rest, p)
		}
	}
	return there, rest
}

// sharesNetwork connects to the job and reports whether its localhost is ours.
func (s *Session) sharesNetwork(ctx context.Context) (bool, error) {
	t := s.newTunnel()
	if err := t.Connect(ctx, cmp.Or(s.attempts, Attempts)); err != nil {
		return false, err
	}
	defer func() { _ = t.current().Close() }() // all that was wanted is known
	return t.sharesNetwork(ctx), nil
}

func (s *Session) newTunnel() *Tunnel {
	return &Tunnel{Route: s.Route, Signer: s.signer(), Known: s.known(), Forwards: s.Forwards}
}

// Open writes the SSH configuration, connects, and forwards until [Session.Close].
func (s *Session) Open(ctx context.Context) error {
	if err := s.enter(); err != nil {
		Release(s.Forwards)
		return err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	if s.Lazy && len(s.Forwards) == 0 {
		return nil
	}
	s.tunnel = s.newTunnel()
	if err := s.tunnel.Connect(ctx, cmp.Or(s.attempts, Attempts)); err != nil {
		Release(s.Forwards)
		s.Close()
		return err
	}
	s.wg.Go(func() { s.tunnel.Run(run) })
	return nil
}

// Close ends the tunnel and removes the entries. It does nothing if the session is not open.
func (s *Session) Close() {
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.wg.Wait()
	s.cancel = nil
	s.leave()
}

func (s *Session) config() SSHConfig {
	return SSHConfig{Path: filepath.Join(s.Dir.SSH(), "config"), Home: s.Home, Login: s.Login}
}

// enter writes the entries, unless another process that is attached to the same job keeps them.
func (s *Session) enter() error {
	if err := os.MkdirAll(s.Dir.SSH(), 0o700); err != nil {
		return fmt.Errorf("create SSH directory: %w", err)
	}
	lock, err := clientconfig.TryLock(s.lockPath())
	if err != nil {
		return err
	}
	s.lock = lock
	if lock == nil {
		return nil
	}
	s.tidy()
	if err := s.note(); err != nil {
		return err
	}
	if err := s.config().Put(s.Route.Hosts()...); err != nil {
		return err
	}
	if err := s.config().Include(); err != nil {
		s.Warn(fmt.Sprintf("%v: `ssh %s` and links to IDEs will not work until ~/.ssh/config includes %s",
			err, s.Route.Name(), s.config().Path))
	}
	return nil
}

// tidy removes what processes that were killed have left in the SSH configuration.
func (s *Session) tidy() {
	notes, err := filepath.Glob(filepath.Join(s.Dir.SSH(), "*"+attachedSuffix))
	if err != nil {
		return // only a bad pattern
	}
	for _, path := range notes {
		name := strings.TrimSuffix(filepath.Base(path), attachedSuffix)
		if name == s.Route.Name() {
			continue
		}
		lock, err := clientconfig.TryLock(path)
		if err != nil || lock == nil { // it is attached
			continue
		}
		hops := []string{name}
		for _, hop := range []string{name + hostSuffix, name + jumpSuffix} {
			if !slices.Contains(notes, filepath.Join(s.Dir.SSH(), hop+attachedSuffix)) { // else it is another run's name
				hops = append(hops, hop)
			}
		}
		if err := s.config().Remove(hops...); err != nil {
			s.Warn(err.Error())
		}
		_ = os.Remove(path) // as in leave
		_ = lock.Close()
	}
}

// note tells other processes which ports are forwarded.
func (s *Session) note() error {
	ports := map[int]int{}
	for _, f := range s.Forwards {
		ports[f.Remote] = f.Local
	}
	data, err := json.Marshal(ports)
	if err != nil {
		return fmt.Errorf("note forwarded ports: %w", err)
	}
	if err := s.lock.Truncate(0); err != nil {
		return fmt.Errorf("note forwarded ports: %w", err)
	}
	if _, err := s.lock.WriteAt(data, 0); err != nil {
		return fmt.Errorf("note forwarded ports: %w", err)
	}
	return nil
}

// Shared returns the forwards that another process keeps for the same job, nil if it does not keep all of these.
// They are not ours: closing the session leaves them alone.
func (s *Session) Shared(ports []Port) []*Forward {
	lock, err := clientconfig.TryLock(s.lockPath())
	if err != nil {
		return nil
	}
	if lock != nil { // nobody is attached
		_ = os.Remove(s.lockPath()) // made by trying
		_ = lock.Close()
		return nil
	}
	data, err := os.ReadFile(s.lockPath())
	if err != nil {
		return nil
	}
	var kept map[int]int
	if json.Unmarshal(data, &kept) != nil {
		return nil
	}
	var fs []*Forward
	for _, p := range ports {
		local, ok := kept[p.Remote]
		if !ok || p.Local != 0 && p.Local != local {
			return nil
		}
		fs = append(fs, &Forward{Local: local, Remote: p.Remote})
	}
	return fs
}

func (s *Session) leave() {
	if s.lock == nil {
		return
	}
	if err := s.config().Remove(s.Route.Aliases()...); err != nil {
		s.Warn(err.Error())
	}
	_ = os.Remove(s.lockPath()) // whoever waits for the lock makes it anew
	_ = s.lock.Close()          // releases the lock
	s.lock = nil
}

func (s *Session) lockPath() string {
	return filepath.Join(s.Dir.SSH(), s.Route.Name()+attachedSuffix)
}

// signer reads each key once. A hop without one gets the key of the job: most jump hosts know it.
func (s *Session) signer() func(string) (ssh.Signer, error) {
	last := s.Route[len(s.Route)-1].Identity
	read := map[string]ssh.Signer{}
	var mu sync.Mutex
	return func(path string) (ssh.Signer, error) {
		if path == "" {
			path = last
		}
		mu.Lock()
		defer mu.Unlock()
		if k, ok := read[path]; ok {
			return k, nil
		}
		k, err := readSigner(path)
		if err == nil {
			read[path] = k
		}
		return k, err
	}
}

// known checks host keys against the user's known hosts; nil if there are none.
func (s *Session) known() ssh.HostKeyCallback {
	cb, err := knownhosts.New(filepath.Join(s.Home, ".ssh", "known_hosts"))
	if err != nil {
		return nil
	}
	return cb
}
