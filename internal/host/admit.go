package host

import (
	"context"
	"fmt"

	"dstack/internal/agentapi"
)

// What a cloud says of its machines may be stale or wrong: a new machine may be told to be where another host is, whose
// jobs would be ended as left-over ones. So until its agent has been met, a machine's host is looked at before anything
// is changed there.

// notThere says why a machine cannot be where its cloud says.
func (c *conn) notThere(format string, args ...any) error {
	return problem(CodeInUse, "the backend says that the machine is at %s, but %s", c.target.Endpoint.Addr, fmt.Sprintf(format, args...))
}

// alone refuses the address of another machine that was to be there first while neither was ever met: of two machines
// that are said to be in one place, one is not. Where one was that does not answer any more, a new one may be. Another
// that is connected there counts when that is asked for: until then its agent tells better which it is.
func (c *conn) alone(connected bool) error {
	if !c.target.New || c.met.Load() || c.place == "" {
		return nil
	}
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	for _, other := range c.pool.hosts {
		if other == c || other.place != c.place {
			continue
		}
		if first := other.target.New && !other.met.Load() && other.num < c.num; first || connected && other.connected() {
			return c.notThere("another instance is there")
		}
	}
	return nil
}

// place is where a host is said to be.
func (t Target) place() string {
	if t.Local != "" || t.Jump != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %s", t.Endpoint.Addr, t.Endpoint.Port, t.home())
}

func (c *conn) connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client != nil
}

// admit looks whether the agent that answers at a bare machine's address can be that of the machine.
func (c *conn) admit(ctx context.Context, client *agentapi.Client, info agentapi.HostInfo) error {
	t := &c.target
	if !t.Bare || c.met.Load() || t.Key != "" && info.InstanceKey == t.Key && !t.Moved {
		return nil
	}
	if t.Moved && t.Key != "" && info.InstanceKey != t.Key {
		return c.notThere("the agent there is another one")
	}
	if err := c.taken(ctx, info.InstanceKey, info.BootID); err != nil {
		return err
	}
	if err := c.alone(true); err != nil { // what another is may not be stored yet
		return err
	}
	if !t.New || c.pool.Transport != nil {
		return nil
	}
	f, err := look(ctx, c.sshClient(), t.Endpoint)
	if err != nil {
		return err
	}
	if f.othersThan(c.pool.Wish.Server) {
		return c.notThere("that host belongs to another dstack server")
	}
	if f.server != "" && f.server == c.pool.Wish.Server {
		return nil
	}
	tasks, err := client.Tasks(ctx)
	if err != nil {
		return err
	}
	for _, task := range tasks { // whoever's: one that is not connected any more, or of an agent that does not tell
		if task.State != agentapi.Terminated {
			return c.notThere("jobs run there already that are not this server's")
		}
	}
	return nil
}

// vacant is admit for an agent that does not answer: its files tell of it.
func (c *conn) vacant(ctx context.Context, f facts) error {
	t := &c.target
	if t.Moved && t.Key != "" && f.key != "" && f.key != t.Key {
		return c.notThere("the agent there is another one")
	}
	if !f.known || !t.New {
		return nil
	}
	if f.othersThan(c.pool.Wish.Server) {
		return c.notThere("that host belongs to another dstack server")
	}
	if f.key == "" {
		return nil
	}
	return c.taken(ctx, f.key, f.boot)
}

func (c *conn) taken(ctx context.Context, key, bootID string) error {
	why, err := c.pool.Sink.Taken(ctx, c.target.ID, key, bootID)
	if err == nil && why != "" {
		err = c.notThere("%s", why)
	}
	return err
}
