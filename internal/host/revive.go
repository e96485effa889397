package host

import (
	"cmp"
	"context"
	"errors"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// revivePatience is how long an agent may not answer on a host that does: it is started
	// again by the host itself, but not where a machine without systemd was restarted.
	revivePatience = 5 * time.Second
	// reviveEvery spaces the attempts: an agent may take minutes to start.
	reviveEvery = 3 * time.Minute
	// reviveSoon is how fast a bare machine must refuse to be asked again at the next
	// connection: nothing was started there.
	reviveSoon = 30 * time.Second
	// setupPatience is how long cloud-init may take. It may restart Docker, and with it our
	// containers; but it may hang as well.
	setupPatience = 10 * time.Minute
)

// silence is about an agent that does not answer while SSH does.
type silence struct {
	since time.Time
	until time.Time // no attempt to start it before
	err   error     // of the last one
}

// revive starts the agent of a host that answers, while the agent does not because of why. On
// a bare machine it first puts it there. It returns what is wrong with the host when it is
// known, otherwise why.
func (c *conn) revive(ctx context.Context, why error) (started bool, err error) {
	now := time.Now()
	if c.silence.since.IsZero() {
		c.silence.since = now
	}
	switch {
	case c.target.Local != "", c.pool.Transport != nil && !c.target.Bare:
		return false, why
	case now.Before(c.silence.until):
		return false, cmp.Or(c.silence.err, why)
	case c.pool.Transport != nil:
		err = c.pool.Transport.Settle(ctx, c.target)
	case c.target.Bare:
		err = c.settle(ctx)
	case now.Sub(c.silence.since) < revivePatience:
		return false, why
	default:
		c.pool.Log.Info("the agent of a host does not answer and is started", "host", c.target.ID)
		err = c.startAgent(ctx, "")
	}
	if errors.Is(err, errStarting) {
		return false, why
	}
	c.silence.err = err
	if err == nil || time.Since(now) > reviveSoon {
		c.silence.until = time.Now().Add(reviveEvery)
	}
	return err == nil, err
}

// errStarting says that an agent is there and has some time to answer.
var errStarting = errors.New("the agent is starting")

// settle puts the agent onto a bare machine and starts it there. It refuses, in words, while
// the machine is not ready.
func (c *conn) settle(ctx context.Context) error {
	e, silent := c.target.Endpoint, time.Since(c.silence.since)
	f, err := look(ctx, c.sshClient(), e)
	if err != nil {
		return err
	}
	if f.known && silent < revivePatience {
		return errStarting
	}
	if err := c.vacant(ctx, f); err != nil {
		return err
	}
	if f.setup && silent < setupPatience {
		return problem(CodeInstall, "cloud-init is still setting %s up", e.Addr)
	}
	arch, err := f.check(time.Now(), OnboardRequest{Endpoint: e})
	if err == nil {
		err = c.bring(ctx, arch, f.known)
	}
	if refused, ok := errors.AsType[*OnboardError](err); ok && refused.Code == CodeNoDocker {
		return problem(CodeNoDocker, "Docker does not answer on %s yet", e.Addr) // nobody can log in there and apply again
	}
	return err
}

// bring pushes the agent for an architecture and starts it; the one that is there has to do
// where it cannot be replaced, on a full disk for example.
func (c *conn) bring(ctx context.Context, arch string, known bool) error {
	bin, err := c.pool.Agents.Get(arch)
	if err != nil {
		return problem(CodeUpload, "%v", err)
	}
	c.pool.Log.Info("the agent is put onto a machine", "host", c.target.ID, "arch", arch)
	if err := c.pool.push(ctx, c.sshClient(), c.target.Endpoint.User, bin); err != nil {
		if !known {
			return err
		}
		return c.startAgent(ctx, "") // it may not know of servers
	}
	if !c.target.New {
		return c.startAgent(ctx, "")
	}
	return c.startAgent(ctx, c.pool.Wish.Server)
}

// startAgent has the agent that is there install itself, for a server unless that is ""; its variables stay.
func (c *conn) startAgent(ctx context.Context, server string) error {
	_, err := installAgent(ctx, c.sshClient(), c.target.Endpoint.User, c.target.home(), nil, server)
	return err
}

func (c *conn) sshClient() *ssh.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ssh
}
