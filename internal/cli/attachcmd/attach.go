// Package attachcmd is `dstack attach`.
package attachcmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/apply"
	"dstack/internal/cli/attach"
	"dstack/internal/cli/follow"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/ps"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project     string
	Name        string
	SSHIdentity string
	Logs        bool
	Host        string
	Ports       []string
	Replica     int // -1: any running one
	Job         int
	Since       string
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use:   "attach RUN",
		Short: "Attach to the run",
		Long: "Forward the ports of a run to this machine and make `ssh RUN` open a shell in it, until Ctrl+C.\n" +
			"A run that is not running yet is waited for. The connection is restored when it breaks.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.CompleteRuns,
	}
	f := cmd.Flags()
	program.ProjectFlag(f, &o.Project)
	f.StringVar(&o.SSHIdentity, "ssh-identity", "", "the private SSH key that the run was submitted with, by default the user's key from the server")
	f.BoolVar(&o.Logs, "logs", false, "print the log of the run as it grows")
	f.StringVar(&o.Host, "host", "", "the local address that forwarded ports bind, by default localhost")
	f.StringArrayVarP(&o.Ports, "port", "p", nil, "forward a port of the run, as PORT, LOCAL:PORT or *:PORT; repeatable")
	f.IntVar(&o.Replica, "replica", -1, "the replica number, by default the first that runs")
	f.IntVar(&o.Job, "job", 0, "the job number inside the replica")
	f.StringVar(&o.Since, "since", "", "print only what was written after this time: a duration like 5m or 1d, or an RFC 3339 time")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.Name = args[0]
		err := Run(cmd.Context(), o)
		if cmd.Context().Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
			p.Println("\nDetached")
			return nil
		}
		return err
	}
	return cmd
}

// Run attaches until ctx ends, or with logs until the run does.
func Run(ctx context.Context, o Options) error {
	log := follow.Log{Run: o.Name}
	if o.Since != "" {
		t, err := format.Since(o.Time(), o.Since)
		if err != nil {
			return err
		}
		log.Since = &t
	}
	override, err := o.ports()
	if err != nil {
		return err
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	r, err := c.Run(ctx, o.Name)
	if err != nil {
		return err
	}
	if r, err = o.provisioned(ctx, c, r); err != nil {
		return err
	}
	if r.Status.Finished() && r.Status != api.RunDone {
		return fmt.Errorf("Run %s is %s", o.Name, r.Status)
	}
	var replica *int
	if o.Replica >= 0 {
		replica = &o.Replica
	}
	job, err := attach.Choose(r, replica, o.Job)
	if err != nil {
		return err
	}
	log.Conn = c
	if sub := follow.Last(job); sub != nil {
		log.Submission = sub.ID
	}
	if r.Status == api.RunDone { // there is nothing left to connect to, but the log is there
		if !o.Logs {
			return fmt.Errorf("Run %s is %s. Its log is shown by `dstack logs %s`", o.Name, r.Status, o.Name)
		}
		return o.logs(ctx, &log, r, nil)
	}
	s, err := o.open(ctx, c, r, job, override)
	if err != nil {
		return err
	}
	defer s.Close()
	o.announce(r, job, s.Forwards)
	if !o.Logs {
		<-ctx.Done()
		return nil
	}
	return o.logs(ctx, &log, r, attach.LinksFor(r, job, s.Forwards, c.URL))
}

func (o Options) ports() ([]attach.Port, error) {
	ports := make([]attach.Port, len(o.Ports))
	for i, s := range o.Ports {
		p, err := config.ParsePort(s)
		if err != nil {
			return nil, fmt.Errorf("-p %s: %w", s, err)
		}
		ports[i].Remote = p.ContainerPort
		if p.LocalPort != nil {
			ports[i].Local = *p.LocalPort
		}
	}
	return ports, nil
}

// provisioned waits until the run runs or has ended.
func (o Options) provisioned(ctx context.Context, c *program.Conn, r api.Run) (api.Run, error) {
	if !launching(r) {
		return r, nil
	}
	live := o.Wait(fmt.Sprintf("Attaching to %s...", o.Name))
	defer live.Close()
	w := follow.Watcher{Conn: c, ID: r.ID, Name: o.Name}
	err := w.Until(ctx, func(now api.Run, waiting string) (bool, error) {
		r = now
		text := fmt.Sprintf("Attaching to %s...%s", o.Name, ps.Progress(r))
		if waiting != "" {
			text = fmt.Sprintf("Attaching to %s... %s", o.Name, waiting)
		}
		live.Set(text, o.Lines(ps.Table([]api.Run{r}, ps.TableOptions{Now: o.Time()}))...)
		return !launching(r), nil
	})
	if err != nil {
		return r, err
	}
	live.Close()
	o.Print(ps.Table([]api.Run{r}, ps.TableOptions{Now: o.Time(), Clock: true}))
	o.Printf("\nProvisioning %s completed (%s)\n", o.Name, r.Status)
	return r, nil
}

func launching(r api.Run) bool {
	return r.Status == api.RunSubmitted || r.Status == api.RunPending || r.Status == api.RunProvisioning
}

// open reserves the ports and connects.
func (o Options) open(ctx context.Context, c *program.Conn, r api.Run, job api.Job, override []attach.Port) (*attach.Session, error) {
	ports, err := attach.Ports(job.JobSpec, override)
	if err != nil {
		return nil, err
	}
	key, err := attach.KeyOf(ctx, o.Program, c, r, o.SSHIdentity)
	if err != nil {
		return nil, err
	}
	route, err := attach.RouteTo(r, job, key, o.Home)
	if err != nil {
		return nil, err
	}
	s := &attach.Session{
		Home: o.Home, Dir: o.Dir(), Route: route,
		Warn: func(text string) { o.Say(o.Paint(term.Warning, text)) },
	}
	s.Forwards, err = attach.Reserve(ctx, o.Host, ports)
	if busy, ok := errors.AsType[*attach.PortInUseError](err); ok {
		if shared := s.Shared(ports); shared != nil { // another terminal is attached to the same job
			s.Forwards = shared
			return s, nil
		}
		return nil, fmt.Errorf("Failed to attach: port %d is already in use. Use -p in dstack attach to override the local port mapping, e.g. -p %d:%d.",
			busy.Port, busy.Port+1, busy.Port)
	}
	if err != nil {
		return nil, err
	}
	err = o.While("Connecting...", func() error { return s.Open(ctx) })
	if err != nil {
		return nil, fmt.Errorf("Failed to attach to run %s: %w", o.Name, err)
	}
	return s, nil
}

func (o Options) announce(r api.Run, job api.Job, forwards []*attach.Forward) {
	o.Printf("Attached to run %s (replica=%d job=%d)\n", o.Name, job.JobSpec.ReplicaNum, job.JobSpec.JobNum)
	if len(forwards) > 0 {
		o.Println("Forwarded ports (local -> remote):")
		host := o.Host
		if host == "" {
			host = "localhost"
		}
		for _, f := range forwards {
			o.Printf("  - %s:%d -> %d\n", host, f.Local, f.Remote)
		}
	}
	o.Printf("To connect to the run via SSH, use `%s`.\n", o.Paint(term.Code, "ssh "+attach.HostName(r, job)))
	o.Println("Press Ctrl+C to detach...")
}

// logs prints the log to its end, and then how the run ended.
func (o Options) logs(ctx context.Context, log *follow.Log, r api.Run, links *attach.Links) error {
	w := follow.Watcher{Conn: log.Conn, ID: r.ID, Name: o.Name}
	err := log.Follow(ctx, w.Ended(ctx, log.Submission), func(b []byte) error {
		_, err := o.Out.Write(links.Rewrite(b))
		return err
	})
	if err != nil {
		return err
	}
	start := time.Now()
	err = w.Until(ctx, func(now api.Run, _ string) (bool, error) {
		r = now
		return r.Status.Finished() || time.Since(start) > finalPatience, nil
	})
	if err != nil {
		return err
	}
	if !r.Status.Finished() { // the log of this job is complete, others go on
		o.Printf("The log of this job is complete, run %s is %s\n", o.Name, r.Status)
		return nil
	}
	return apply.Final(o.Program, r)
}

// finalPatience is how long a run may take to end after the log of one of its jobs.
const finalPatience = 30 * time.Second
