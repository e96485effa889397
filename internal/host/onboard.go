package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
	"dstack/internal/agentbin"
)

// maxSkew is how far a host's clock may be off: certificates and logs would be wrong.
const maxSkew = 5 * time.Minute

const (
	lookTimeout = 20 * time.Second
	// installTimeout is a little more than the agent's own limit, so that its words arrive.
	installTimeout = 3 * time.Minute
	onboardTimeout = 5 * time.Minute
)

// OnboardRequest names a host and what it gets.
type OnboardRequest struct {
	Endpoint       Endpoint
	Jump           *Endpoint
	Env            map[string]string
	AuthorizedKeys []string // lines that let the server in from now on
	// Taken says why a host with an agent, of a key and in a boot, is not to be had; asked before anything is
	// changed there. Optional.
	Taken func(ctx context.Context, key, bootID string) error
}

// Onboarded is a host that is ready. The keys are to be pinned; JumpKey is "" without a
// jump host.
type Onboarded struct {
	Info    agentapi.HostInfo
	HostKey string
	JumpKey string
}

// Onboard pushes the agent to a host of the user, starts it there and returns what it
// says. It may be repeated. A host that cannot be taken is left as it was. Errors are
// *OnboardError, or what r.Taken says.
func (p *Pool) Onboard(ctx context.Context, r OnboardRequest) (Onboarded, error) {
	ctx, cancel := context.WithTimeout(ctx, onboardTimeout)
	defer cancel()
	if p.Transport != nil {
		return p.Transport.Onboard(ctx, r)
	}
	s, seen, err := p.gate.open(ctx, r.Endpoint, r.Jump)
	if err != nil {
		return Onboarded{}, err
	}
	defer s.Close()
	f, err := look(ctx, s, r.Endpoint)
	if err != nil {
		return Onboarded{}, err
	}
	arch, err := f.check(time.Now(), r)
	if err != nil {
		return Onboarded{}, err
	}
	if f.othersThan(p.Wish.Server) {
		return Onboarded{}, inUse(r.Endpoint)
	}
	if f.known && f.key != "" && r.Taken != nil {
		if err := r.Taken(ctx, f.key, f.boot); err != nil {
			return Onboarded{}, err
		}
	}
	bin, err := p.Agents.Get(arch)
	if err != nil {
		return Onboarded{}, problem(CodeUpload, "%v", err)
	}
	info, err := p.settle(ctx, s, r, bin)
	if refused, ok := errors.AsType[*OnboardError](err); ok && refused.Code == CodeInUse { // it came first
		return Onboarded{}, inUse(r.Endpoint)
	}
	if err != nil {
		if !f.known { // nothing of ours was there before, and of others only what has come since
			cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			if uerr := p.uninstall(cctx, s, r.Endpoint); uerr != nil {
				p.Log.Warn("clean a host that could not be added", "host", r.Endpoint.String(), "err", uerr)
			}
		}
		return Onboarded{}, err
	}
	return Onboarded{Info: info, HostKey: seen.Host, JumpKey: seen.Jump}, nil
}

// inUse says that a host is another server's.
func inUse(e Endpoint) error {
	return problem(CodeInUse, "%s belongs to another dstack server, which was connected to it in the last %d minutes. "+
		"Delete its fleet there. If that server is gone, wait so long, or end what it left on the host: sudo %s uninstall", e.Addr, int(agentapi.ServerGrace.Minutes()), binaryPath)
}

// settle puts the agent and our keys onto a host.
func (p *Pool) settle(ctx context.Context, s *ssh.Client, r OnboardRequest, bin agentbin.Binary) (agentapi.HostInfo, error) {
	if err := p.push(ctx, s, r.Endpoint.User, bin); err != nil {
		return agentapi.HostInfo{}, err
	}
	env := r.Env
	if env == nil {
		env = map[string]string{}
	}
	info, err := installAgent(ctx, s, r.Endpoint.User, agentapi.DefaultHome, env, p.Wish.Server)
	if err != nil {
		return info, err
	}
	return info, authorize(ctx, s, r)
}

// facts are what a host tells before anything is changed on it.
type facts struct {
	os, machine string
	root        bool // the user is root, or becomes it without a password
	clock       time.Time
	docker      bool      // an engine is installed or answers
	known       bool      // an agent is there already
	setup       bool      // cloud-init has not finished
	server      string    // that its agent listens to, or did last; "" when that is not known
	served      time.Time // by the host's clock, when it last did
	boot, key   string    // the ids of the boot and of the agent, "" when they are not known
}

// othersThan says that the agent of a host is another server's than that of an id. To take it away would end the
// other's jobs. Agents and servers of before do not tell.
func (f facts) othersThan(server string) bool {
	return f.known && f.server != "" && server != "" && f.server != server && f.clock.Sub(f.served) < agentapi.ServerGrace
}

// look asks a host for its facts, in one round trip.
func look(ctx context.Context, s *ssh.Client, e Endpoint) (facts, error) {
	const script = `uname -s; uname -m; if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then echo root; else echo user; fi; date +%s; ` +
		`if [ -S /var/run/docker.sock ] || command -v dockerd >/dev/null 2>&1; then echo docker; else echo none; fi; ` +
		`if [ -e ` + binaryPath + ` ]; then echo known; else echo new; fi; ` +
		`if [ -d /run/cloud-init ] && [ ! -e /var/lib/cloud/instance/boot-finished ]; then echo setup; else echo finished; fi; ` +
		`f=` + agentapi.DefaultHome + `/` + agentapi.OwnerFile + `; if [ -s $f ]; then echo "$(head -n1 $f) $(stat -c %Y $f)"; else echo nobody; fi; ` +
		`echo "boot $(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"; ` +
		`f=` + agentapi.DefaultHome + `/` + agentapi.KeyFile + `; if [ -r $f ]; then cat=cat; else cat="sudo -n cat"; fi; echo "key $($cat $f 2>/dev/null)"`
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	out, errs, err := run(ctx, s, "sh -c "+quote(script), nil)
	if err != nil {
		return facts{}, problem(CodeInstall, "cannot run commands on %s: %v %s", e.Addr, err, errs)
	}
	return parseFacts(out, e.Addr)
}

func parseFacts(out, addr string) (facts, error) {
	const count = 10
	lines := strings.Split(strings.TrimSpace(out), "\n")
	odd := problem(CodeInstall, "%s answers oddly to commands (is its login shell a shell?): %q", addr, out)
	if len(lines) < count {
		return facts{}, odd
	}
	lines = lines[len(lines)-count:] // a login banner may come first
	seconds, err := strconv.ParseInt(lines[3], 10, 64)
	if err != nil {
		return facts{}, odd
	}
	f := facts{os: lines[0], machine: lines[1], root: lines[2] == "root", clock: time.Unix(seconds, 0), docker: lines[4] == "docker", known: lines[5] == "known", setup: lines[6] == "setup"}
	f.boot, f.key = strings.TrimSpace(strings.TrimPrefix(lines[8], "boot")), strings.TrimSpace(strings.TrimPrefix(lines[9], "key"))
	if server, at, ok := strings.Cut(lines[7], " "); ok {
		if seconds, err := strconv.ParseInt(at, 10, 64); err == nil {
			f.server, f.served = server, time.Unix(seconds, 0)
		}
	}
	return f, nil
}

// runtimeVar is the variable with which a fleet allows jobs without containers.
const runtimeVar = "DSTACK_AGENT_RUNTIME"

// check returns the host's architecture, or what is wrong with it.
func (f facts) check(now time.Time, r OnboardRequest) (arch string, err error) {
	addr, user := r.Endpoint.Addr, r.Endpoint.User
	skew := now.Sub(f.clock)
	kind := r.Env[runtimeVar]
	switch {
	case f.os != "Linux":
		return "", problem(CodeOS, "%s runs %s; only Linux is supported", addr, f.os)
	case !f.root:
		return "", problem(CodeNoSudo, "the user %s of %s is not root and may not use sudo without a password. Add to /etc/sudoers.d: %s ALL=(ALL) NOPASSWD:ALL", user, addr, user)
	case skew > maxSkew || skew < -maxSkew:
		return "", problem(CodeClock, "the clock of %s is off by %v. Set it (timedatectl set-ntp true) and apply again", addr, skew.Round(time.Second))
	case !f.docker && (kind == "" || kind == "docker"):
		return "", problem(CodeNoDocker, "Docker is not installed on %s. Install it (https://docs.docker.com/engine/install) and apply again", addr)
	}
	switch f.machine {
	case "x86_64", "amd64":
		return "amd64", nil
	case "aarch64", "arm64":
		return "arm64", nil
	}
	return "", problem(CodeArch, "%s is a %s machine; x86_64 and aarch64 are supported", addr, f.machine)
}

// keyMark ends the lines of authorized_keys that are ours.
const keyMark = "# added by dstack"

// authorize lets the server's keys in; those that are there already stay as they are.
func authorize(ctx context.Context, s *ssh.Client, r OnboardRequest) error {
	var b strings.Builder
	b.WriteString("set -e; umask 077; mkdir -p ~/.ssh; f=~/.ssh/authorized_keys; touch $f; ")
	b.WriteString("if [ -n \"$(tail -c1 $f)\" ]; then echo >>$f; fi; ")
	for _, k := range r.AuthorizedKeys {
		f := strings.Fields(k)
		if len(f) < 2 {
			continue
		}
		line := f[0] + " " + f[1]
		fmt.Fprintf(&b, "grep -qF %s $f || echo %s >>$f; ", quote(line), quote(line+" "+keyMark))
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, errs, err := run(ctx, s, "sh -c "+quote(b.String()), nil); err != nil {
		return problem(CodeInstall, "cannot let the server's key in on %s: %v %s", r.Endpoint.Addr, err, errs)
	}
	return nil
}

// installAgent runs the installation of the agent that was pushed, whose answer is JSON, for a server unless that
// is "". Without env the agent keeps the variables that it has. They go through stdin: arguments are seen by all.
func installAgent(ctx context.Context, s *ssh.Client, user, home string, env map[string]string, server string) (agentapi.HostInfo, error) {
	var info agentapi.HostInfo
	cmd := binaryPath + " install --home " + quote(home) + " --user " + quote(user)
	if server != "" {
		cmd += " --server " + quote(server)
	}
	var stdin io.Reader
	if env != nil {
		data, err := json.Marshal(env)
		if err != nil {
			return info, problem(CodeInstall, "%v", err)
		}
		cmd, stdin = cmd+" --env-stdin", bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	out, errs, err := run(ctx, s, root(user, cmd), stdin)
	if err == nil {
		if jerr := json.Unmarshal([]byte(out), &info); jerr != nil {
			return info, problem(CodeInstall, "the agent's answer cannot be read: %v", jerr)
		}
		return info, nonsense(info)
	}
	var refused agentapi.Error
	if json.Unmarshal([]byte(out), &refused) == nil && refused.Message != "" {
		return info, problem(refused.Code, "%s", refused.Message)
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return info, problem(CodeInstall, "the agent cannot be installed: %s", errs)
	}
	return info, problem(CodeInstall, "the agent cannot be installed: %v", err)
}

// UninstallRequest names a host that is given back.
type UninstallRequest struct {
	Endpoint Endpoint
	Jump     *Endpoint
}

// Uninstall takes the agent and our keys off a host. It may be repeated. What another server has taken stays: ours may
// never have got the host.
func (p *Pool) Uninstall(ctx context.Context, r UninstallRequest) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if p.Transport != nil {
		return p.Transport.Uninstall(ctx, r)
	}
	s, _, err := p.gate.open(ctx, r.Endpoint, r.Jump)
	if err != nil {
		return err
	}
	defer s.Close()
	return p.uninstall(ctx, s, r.Endpoint)
}

// anothers is what a host says of which another server has taken the agent.
const anothers = "the agent is of another server"

func (p *Pool) uninstall(ctx context.Context, s *ssh.Client, e Endpoint) error {
	script := "test ! -e " + binaryPath + " || exec " + binaryPath + " uninstall --home " + agentapi.DefaultHome
	if own := p.Wish.Server; own != "" { // looked at there, by root and in the same command: nothing that hangs or is odd is between
		script = "of=$(head -n1 " + agentapi.DefaultHome + "/" + agentapi.OwnerFile + " 2>/dev/null); " +
			`if [ -n "$of" ] && [ "$of" != ` + quote(own) + " ]; then echo " + quote(anothers) + "; exit 0; fi; " + script
	}
	out, errs, err := run(ctx, s, root(e.User, "sh -c "+quote(script)), nil)
	if err != nil {
		return fmt.Errorf("uninstall the agent: %w %s", err, errs)
	}
	if strings.HasSuffix(strings.TrimSpace(out), anothers) { // a login banner may come first
		p.Log.Warn("a host stays as it is: it belongs to another server", "host", e.String())
		return nil
	}
	// The keys come last: with them the server can try again.
	// They are replaced at once, and only if the rest could be written: the user must not
	// lose theirs when the disk is full.
	mark := quote(keyMark + "$")
	script = "f=~/.ssh/authorized_keys; grep -q " + mark + " $f 2>/dev/null || exit 0; umask 077; grep -v " + mark + " $f >$f.dstack; " +
		"if [ $? -gt 1 ]; then rm -f $f.dstack; exit 1; fi; mv -f $f.dstack $f"
	if _, errs, err := run(ctx, s, "sh -c "+quote(script), nil); err != nil {
		return fmt.Errorf("remove our keys: %w %s", err, errs)
	}
	return nil
}
