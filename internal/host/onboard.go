package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
)

// maxSkew is how far a host's clock may be off: certificates and logs would be wrong.
const maxSkew = 5 * time.Minute

// OnboardRequest names a host and what it gets.
type OnboardRequest struct {
	Endpoint       Endpoint
	Jump           *Endpoint
	Env            map[string]string
	AuthorizedKeys []string // lines that let the server in from now on
}

// Onboarded is a host that is ready.
type Onboarded struct {
	Info    agentapi.HostInfo
	HostKey string
}

// Onboard pushes the agent to a host of the user, starts it there and returns what it
// says. It may be repeated. Errors are *OnboardError.
func (p *Pool) Onboard(ctx context.Context, r OnboardRequest) (Onboarded, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if p.Transport != nil {
		return p.Transport.Onboard(ctx, r)
	}
	s, key, err := connect(ctx, r.Endpoint, r.Jump)
	if err != nil {
		return Onboarded{}, err
	}
	defer s.Close()
	arch, err := check(ctx, s, r)
	if err != nil {
		return Onboarded{}, err
	}
	bin, err := p.Agents.Get(arch)
	if err != nil {
		return Onboarded{}, problem(CodeUpload, "%v", err)
	}
	if err := p.push(ctx, s, r.Endpoint.User, bin); err != nil {
		return Onboarded{}, err
	}
	info, err := installAgent(ctx, s, r.Endpoint.User, agentapi.DefaultHome, r.Env)
	if err != nil {
		return Onboarded{}, err
	}
	if skew := time.Since(time.UnixMicro(info.UnixMicros)); skew > maxSkew || skew < -maxSkew {
		return Onboarded{}, problem(CodeClock, "the clock of %s is off by %v. Set it (timedatectl set-ntp true) and apply again", r.Endpoint.Addr, skew.Round(time.Second))
	}
	return Onboarded{Info: info, HostKey: key}, nil
}

// check looks at the host and lets the server's keys in, in one round trip.
func check(ctx context.Context, s *ssh.Client, r OnboardRequest) (arch string, err error) {
	var b strings.Builder
	b.WriteString("uname -s; uname -m; id -u; sudo -n true 2>/dev/null && echo sudo || echo nosudo; ")
	b.WriteString("mkdir -p ~/.ssh && chmod 700 ~/.ssh && touch ~/.ssh/authorized_keys && chmod 600 ~/.ssh/authorized_keys; ")
	for _, k := range r.AuthorizedKeys {
		f := strings.Fields(k)
		if len(f) < 2 {
			continue
		}
		line := f[0] + " " + f[1]
		fmt.Fprintf(&b, "grep -qF %[1]s ~/.ssh/authorized_keys || { tail -c1 ~/.ssh/authorized_keys | grep -q . && echo >>~/.ssh/authorized_keys; echo %[2]s >>~/.ssh/authorized_keys; }; ", quote(line), quote(line+" # added by dstack"))
	}
	b.WriteString("true")
	cctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, errs, err := run(cctx, s, "sh -c "+quote(b.String()), nil)
	if err != nil {
		return "", problem(CodeInstall, "cannot run commands on %s: %v %s", r.Endpoint.Addr, err, errs)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) < 4 {
		return "", problem(CodeInstall, "%s answers oddly to commands (is its login shell a shell?): %q", r.Endpoint.Addr, out)
	}
	lines = lines[len(lines)-4:] // a login banner may come first
	switch {
	case lines[0] != "Linux":
		return "", problem(CodeOS, "%s runs %s; only Linux is supported", r.Endpoint.Addr, lines[0])
	case lines[2] != "0" && lines[3] != "sudo":
		return "", problem(CodeNoSudo, "the user %s of %s is not root and may not use sudo without a password. Add to /etc/sudoers.d: %s ALL=(ALL) NOPASSWD:ALL", r.Endpoint.User, r.Endpoint.Addr, r.Endpoint.User)
	}
	switch lines[1] {
	case "x86_64", "amd64":
		return "amd64", nil
	case "aarch64", "arm64":
		return "arm64", nil
	}
	return "", problem(CodeArch, "%s is a %s machine; x86_64 and aarch64 are supported", r.Endpoint.Addr, lines[1])
}

// installAgent runs the agent's own installation, whose answer is JSON.
func installAgent(ctx context.Context, s *ssh.Client, user, home string, env map[string]string) (agentapi.HostInfo, error) {
	cmd := binaryPath + " install --json --home " + quote(home) + " --user " + quote(user)
	keys := make([]string, 0, len(env))
	for k := range env {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		cmd += " --env " + quote(k+"="+env[k])
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	out, errs, err := run(ctx, s, root(user, cmd), nil)
	var info agentapi.HostInfo
	if err == nil {
		if jerr := json.Unmarshal([]byte(out), &info); jerr != nil {
			return info, problem(CodeInstall, "the agent's answer cannot be read: %v", jerr)
		}
		return info, nil
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

// UninstallRequest names a host and what it loses.
type UninstallRequest struct {
	Endpoint       Endpoint
	Jump           *Endpoint
	AuthorizedKeys []string
}

// Uninstall takes the agent and our keys off a host.
func (p *Pool) Uninstall(ctx context.Context, r UninstallRequest) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if p.Transport != nil {
		return p.Transport.Uninstall(ctx, r)
	}
	s, _, err := connect(ctx, r.Endpoint, r.Jump)
	if err != nil {
		return err
	}
	defer s.Close()
	_, errs, err := run(ctx, s, root(r.Endpoint.User, binaryPath+" uninstall --home "+quote(agentapi.DefaultHome)), nil)
	if err != nil {
		return fmt.Errorf("uninstall the agent: %w %s", err, errs)
	}
	script := "f=~/.ssh/authorized_keys; grep -v '# added by dstack$' $f >$f.dstack; cat $f.dstack >$f; rm -f $f.dstack"
	if _, errs, err := run(ctx, s, "sh -c "+quote(script), nil); err != nil {
		return fmt.Errorf("remove our keys: %w %s", err, errs)
	}
	return nil
}
