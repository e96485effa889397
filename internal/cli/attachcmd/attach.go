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

// Run stays attached until the run or ctx ends. A job that is started again, perhaps on another host, is attached again.
func Run(ctx context.Context, o Options) error {
	a := attachment{Options: o}
	if o.Since != "" {
		t, err := format.Since(o.Time(), o.Since)
		if err != nil {
			return err
		}
		a.since = &t
	}
	var err error
	if a.override, err = o.ports(); err != nil {
		return err
	}
	if a.conn, err = o.Connect(o.Project); err != nil {
		return err
	}
	if a.run, err = a.conn.Run(ctx, o.Name); err != nil {
		return err
	}
	for again := true; again; {
		if again, err = a.once(ctx); err != nil {
			return err
		}
	}
	return nil
}

// An attachment is a run as last seen, and how to reach it.
type attachment struct {
	Options
	conn     *program.Conn
	run      api.Run
	override []attach.Port
	since    *time.Time
}

// once attaches to one submission of the job and reports whether another one follows.
func (a *attachment) once(ctx context.Context) (again bool, err error) {
	if err := a.provisioned(ctx); err != nil {
		return false, err
	}
	r := a.run
	if r.Status.Finished() && r.Status != api.RunDone {
		return false, fmt.Errorf("Run %s is %s", a.Name, r.Status)
	}
	var replica *int
	if a.Replica >= 0 {
		replica = &a.Replica
	}
	job, err := attach.Choose(r, replica, a.Job)
	if err != nil {
		return false, err
	}
	if r.Status == api.RunDone { // there is nothing left to connect to, but the log is there
		if !a.Logs {
			return false, fmt.Errorf("Run %s is %s. Its log is shown by `dstack logs %s`", a.Name, r.Status, a.Name)
		}
		return a.stay(ctx, job, nil)
	}
	s, err := a.open(ctx, job)
	if err != nil {
		return false, err
	}
	defer s.Close()
	a.announce(r, job, s.Forwards)
	return a.stay(ctx, job, attach.LinksFor(r, job, s.Forwards, a.conn.URL))
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

// watcher sees the changes of the run, also after the server was away for long: the tunnel does not need it.
func (a *attachment) watcher() *follow.Watcher {
	return &follow.Watcher{Conn: a.conn, ID: a.run.ID, Name: a.Name, Patient: true}
}

// provisioned waits until the run runs or has ended.
func (a *attachment) provisioned(ctx context.Context) error {
	if !launching(a.run) {
		return nil
	}
	live := a.Wait(fmt.Sprintf("Attaching to %s...", a.Name))
	defer live.Close()
	err := a.watcher().Until(ctx, func(now api.Run, waiting string) (bool, error) {
		a.run = now
		text := fmt.Sprintf("Attaching to %s...%s", a.Name, ps.Progress(now))
		if waiting != "" {
			text = fmt.Sprintf("Attaching to %s... %s", a.Name, waiting)
		}
		live.Set(text, a.Lines(ps.Table([]api.Run{now}, ps.TableOptions{Now: a.Time()}))...)
		return !launching(now), nil
	})
	if err != nil {
		return err
	}
	live.Close()
	a.Print(ps.Table([]api.Run{a.run}, ps.TableOptions{Now: a.Time(), Clock: true}))
	a.Printf("\nProvisioning %s completed (%s)\n", a.Name, a.run.Status)
	return nil
}

func launching(r api.Run) bool {
	return r.Status == api.RunSubmitted || r.Status == api.RunPending || r.Status == api.RunProvisioning
}

// open reserves the ports and connects.
func (a *attachment) open(ctx context.Context, job api.Job) (*attach.Session, error) {
	ports, err := attach.Ports(job.JobSpec, a.override)
	if err != nil {
		return nil, err
	}
	key, err := attach.KeyOf(ctx, a.Program, a.conn, a.run, a.SSHIdentity)
	if err != nil {
		return nil, err
	}
	route, err := attach.RouteTo(a.run, job, key, a.Home)
	if err != nil {
		return nil, err
	}
	s := &attach.Session{
		Home: a.Home, Dir: a.Dir(), Route: route,
		Warn: func(text string) { a.Say(a.Paint(term.Warning, text)) },
	}
	err = s.Reserve(ctx, a.Host, ports)
	if busy, ok := errors.AsType[*attach.PortInUseError](err); ok {
		if shared := s.Shared(ports); shared != nil { // another terminal is attached to the same job
			s.Forwards = shared
			return s, nil
		}
		return nil, fmt.Errorf("Failed to attach: port %d is already in use. Use -p in dstack attach to override the local port mapping, e.g. -p %d:%d.",
			busy.Port, busy.Port+1, busy.Port)
	}
	if err == nil {
		err = a.While("Connecting...", func() error { return s.Open(ctx) })
	}
	if err != nil {
		return nil, fmt.Errorf("Failed to attach to run %s: %w", a.Name, err)
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

// stay prints the log, if that is wanted, and waits until the run has ended, which it tells, or the job is started again.
func (a *attachment) stay(ctx context.Context, job api.Job, links *attach.Links) (again bool, err error) {
	submission := ""
	if sub := follow.Last(job); sub != nil {
		submission = sub.ID
	}
	if a.Logs {
		log := follow.Log{Conn: a.conn, Run: a.Name, Submission: submission, Since: a.since, Lost: a.lost}
		err := log.Follow(ctx, a.watcher().Ended(ctx, submission), func(b []byte) error {
			_, err := a.Out.Write(links.Rewrite(b))
			return err
		})
		if err != nil {
			return false, err
		}
	}
	var ended time.Time // of this job, while others go on
	err = a.watcher().Until(ctx, func(now api.Run, _ string) (bool, error) {
		a.run = now
		sub := submissionOf(now, job)
		switch {
		case now.Status.Finished():
			return true, nil
		case now.Status == api.RunPending || sub != nil && sub.ID != submission:
			again = true
			return true, nil
		case sub == nil || !sub.Status.Finished():
			return false, nil
		case ended.IsZero():
			ended = time.Now()
		}
		return time.Since(ended) > finalPatience, nil
	})
	if err != nil || again {
		return again, err
	}
	if !a.run.Status.Finished() {
		a.Printf("This job has ended, run %s is %s\n", a.Name, a.run.Status)
		return false, nil
	}
	return false, apply.Final(a.Program, a.run)
}

func (a *attachment) lost() { a.Say(a.Paint(term.Warning, term.Unanswered)) }

// submissionOf is the last submission of the same job in a newer view of its run.
func submissionOf(r api.Run, job api.Job) *api.JobSubmission {
	for _, j := range r.Jobs {
		if j.JobSpec.ReplicaNum == job.JobSpec.ReplicaNum && j.JobSpec.JobNum == job.JobSpec.JobNum {
			return follow.Last(j)
		}
	}
	return nil
}

// finalPatience is how long a run may take to end, or to start a job again, after one of its jobs has ended.
const finalPatience = 30 * time.Second
