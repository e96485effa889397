package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"dstack/internal/api"
	"dstack/internal/cli/attach"
	"dstack/internal/cli/follow"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/ps"
	"dstack/internal/cli/term"
)

// statusPatience is how long the first line of the log waits for the status to say that the job runs.
const statusPatience = 500 * time.Millisecond

// followed is a submitted run that the command stays with.
type followed struct {
	Options
	conn     *program.Conn
	run      api.Run // as last seen
	waiting  string  // what the server says that the run waits for
	forwards []*attach.Forward
	beside   bool // the job may run on this machine and open the forwarded ports itself: they are not held
}

// followRun stays with a run to its end and tells how it ended. Ctrl+C detaches, after asking whether to stop the run.
func followRun(ctx context.Context, f followed) error {
	err := f.follow(ctx)
	if ctx.Err() != nil {
		return f.detach(ctx)
	}
	return err
}

func (f *followed) name() string { return format.Text(f.run.RunSpec.RunName) }

func (f *followed) watcher() *follow.Watcher {
	return &follow.Watcher{Conn: f.conn, ID: f.run.ID, Name: f.name()}
}

// follow goes through the submissions of the run: each is launched, its log is printed, and then the run has ended
// or there is another submission.
func (f *followed) follow(ctx context.Context) error {
	defer func() { attach.Release(f.forwards) }()
	for {
		again, err := f.submission(ctx)
		if err != nil {
			return err
		}
		if !again {
			return f.final()
		}
		if err := f.reserveAgain(ctx); err != nil {
			return err
		}
	}
}

// submission follows one submission of the first job and reports whether another one follows.
func (f *followed) submission(ctx context.Context) (again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	log, err := f.launch(ctx, &wg)
	if err != nil {
		return false, err
	}
	if err := f.announce(); err != nil {
		return false, err
	}
	if log == nil {
		return false, nil
	}
	if !f.run.Status.Finished() {
		run, forwards := f.run, f.forwards
		wg.Go(func() { f.attach(ctx, run, forwards) })
	}
	if err := f.print(ctx, log); err != nil {
		return false, err
	}
	return f.settle(ctx, log.submission)
}

// A logCopy follows the log of a submission from its first moment on, before the status says that the job runs.
type logCopy struct {
	submission string
	chunks     chan []byte
	started    chan struct{} // closed at the first chunk, or the end
	err        error         // valid after chunks was closed
}

func newLogCopy(submission string) *logCopy {
	return &logCopy{submission: submission, chunks: make(chan []byte, 64), started: make(chan struct{})}
}

func (l *logCopy) run(ctx context.Context, w *follow.Watcher, name string, lost func()) {
	once := sync.OnceFunc(func() { close(l.started) })
	src := follow.Log{Conn: w.Conn, Run: name, Submission: l.submission, Lost: lost}
	l.err = src.Follow(ctx, w.Ended(ctx, l.submission), func(b []byte) error {
		once()
		select {
		case l.chunks <- b:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	close(l.chunks)
	once()
}

// launch waits until the first job runs, writes, or has ended. The log is nil if there was never a submission.
func (f *followed) launch(ctx context.Context, wg *sync.WaitGroup) (*logCopy, error) {
	live := f.Wait(fmt.Sprintf("Launching %s...", f.name()))
	defer live.Close()
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	var log *logCopy
	visit := func(r api.Run, why string) (bool, error) {
		f.run, f.waiting = r, why
		if id := f.current(); log == nil && id != "" {
			log = newLogCopy(id)
			w, name := f.watcher(), f.name()
			wg.Go(func() { log.run(ctx, w, name, func() { live.Above(func() { f.warn(term.Unanswered) }) }) })
			wg.Go(func() {
				select {
				case <-log.started:
					stop()
				case <-waiting.Done():
				}
			})
		}
		live.Set(f.waitText(), f.block()...)
		return f.ready(), nil
	}
	if done, err := visit(f.run, ""); done || err != nil {
		return log, err
	}
	w := f.watcher()
	w.Lost = func() { live.Set(term.Unanswered, f.block()...) }
	err := w.Until(waiting, visit)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && waiting.Err() == nil {
		return nil, err
	}
	if !f.ready() { // there is a log already: give the status a moment to follow
		short, cancel := context.WithTimeout(ctx, statusPatience)
		defer cancel()
		err := f.watcher().Until(short, func(r api.Run, _ string) (bool, error) { f.run = r; return f.ready(), nil })
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
	}
	return log, nil
}

// current is the id of the last submission of the first job, "" if there is none.
func (f *followed) current() string {
	if len(f.run.Jobs) == 0 || f.run.Status == api.RunPending {
		return ""
	}
	if s := follow.Last(f.run.Jobs[0]); s != nil {
		return s.ID
	}
	return ""
}

// ready reports whether there is nothing left to launch.
func (f *followed) ready() bool {
	switch f.run.Status {
	case api.RunSubmitted, api.RunPending, api.RunProvisioning, api.RunTerminating:
		return false
	}
	if f.run.Status.Finished() || len(f.run.Jobs) == 0 {
		return true
	}
	if s := follow.Last(f.run.Jobs[0]); s != nil {
		switch s.Status {
		case api.JobSubmitted, api.JobProvisioning, api.JobPulling:
			return false
		}
	}
	for _, j := range f.run.Jobs {
		if s := follow.Last(j); s != nil && !s.Status.Finished() && s.DeploymentNum != f.run.DeploymentNum {
			return false
		}
	}
	return true
}

// waitText says what the command waits for.
func (f *followed) waitText() string {
	r := f.run
	if f.waiting != "" {
		return fmt.Sprintf("Launching %s... %s", f.name(), f.waiting)
	}
	if r.StatusMessage != "" && r.StatusMessage != string(r.Status) {
		return fmt.Sprintf("Launching %s... %s", f.name(), r.StatusMessage)
	}
	switch {
	case r.Status == api.RunPending && r.NextTriggeredAt != nil:
		return fmt.Sprintf("%s is waiting for schedule...", f.name())
	case f.waitsForRequests():
		return fmt.Sprintf("%s is waiting for requests...", f.name())
	}
	return fmt.Sprintf("Launching %s...%s", f.name(), ps.Progress(r))
}

func (f *followed) waitsForRequests() bool {
	r := f.run
	if r.Service == nil || r.NextTriggeredAt != nil || r.Status != api.RunSubmitted && r.Status != api.RunPending {
		return false
	}
	for _, j := range r.Jobs {
		if s := follow.Last(j); s != nil && !s.Status.Finished() && s.Status != api.JobTerminating {
			return false
		}
	}
	return true
}

// block is what stands beneath the spinner.
func (f *followed) block() []string {
	if !f.ErrTTY {
		return nil
	}
	lines := f.Lines(ps.Table([]api.Run{f.run}, ps.TableOptions{Verbose: f.Verbose, Now: f.Time()}))
	if f.run.NextTriggeredAt != nil {
		lines = append(lines, "", "Next run: "+f.run.NextTriggeredAt.Local().Format("2006-01-02 15:04 MST"))
	}
	if f.waitsForRequests() {
		lines = append(lines, "", "Service is published at:", "  "+f.serviceURL(f.run.Service.URL))
	}
	return lines
}

// announce prints how launching ended.
func (f *followed) announce() error {
	failed := f.run.Status == api.RunFailed
	f.Print(ps.Table([]api.Run{f.run}, ps.TableOptions{Verbose: f.Verbose || failed, Now: f.Time(), Clock: true}))
	f.Printf("\n%s provisioning completed (%s)\n", f.name(), f.run.Status)
	if s := f.run.Service; s != nil && (f.run.Status == api.RunRunning || f.run.Status == api.RunDone) {
		f.Printf("Service is published at:\n  %s\n", f.serviceURL(s.URL))
		if s.Model != nil {
			f.Printf("Model %s is published at:\n  %s\n", s.Model.Name, f.serviceURL(s.Model.BaseURL))
		}
		f.Println()
	}
	return f.connectionInfo()
}

// connectionInfo prints links of dev environments, if that is switched on.
func (f *followed) connectionInfo() error {
	on, err := f.Bool("DSTACK_FF_CLI_PRINT_JOB_CONNECTION_INFO")
	if err != nil || !on || len(f.run.Jobs) == 0 || f.run.RunSpec.Configuration.DevEnvironment == nil {
		return err
	}
	info := f.run.Jobs[0].JobConnectionInfo
	if info == nil {
		return nil
	}
	if info.IDEName != nil {
		f.Printf("To open in %s, use link(s) below:\n", *info.IDEName)
		for _, link := range []*string{info.AttachedIDEURL, info.ProxiedIDEURL} {
			if link != nil {
				f.Printf("  %s\n", *link)
			}
		}
	}
	var commands []string
	for _, words := range [][]string{info.AttachedSSHCommand, info.ProxiedSSHCommand} {
		if len(words) > 0 {
			commands = append(commands, "`"+strings.Join(words, " ")+"`")
		}
	}
	if len(commands) > 0 {
		f.Printf("To connect via SSH, use: %s\n", strings.Join(commands, " or "))
	}
	return nil
}

func (f *followed) serviceURL(address string) string {
	u, err := attach.ServiceURL(f.conn.URL, address)
	if err != nil {
		return address
	}
	return u.String()
}

// print copies the log to the output, with addresses that work from here.
func (f *followed) print(ctx context.Context, l *logCopy) error {
	var links *attach.Links
	if len(f.run.Jobs) > 0 {
		links = attach.LinksFor(f.run, f.run.Jobs[0], f.forwards, f.conn.URL)
	}
	for b := range l.chunks {
		if _, err := f.Out.Write(links.Rewrite(b)); err != nil {
			return fmt.Errorf("print the log: %w", err)
		}
	}
	if l.err != nil && ctx.Err() == nil && !errors.Is(l.err, io.EOF) {
		f.warn(fmt.Sprintf("The log cannot be followed any more: %v. See `dstack logs -f %s`", l.err, f.name()))
	}
	return ctx.Err()
}

// settle waits until the run has ended, or has another submission than the one that was followed.
func (f *followed) settle(ctx context.Context, submission string) (again bool, err error) {
	live := f.Wait(fmt.Sprintf("Waiting for %s to end...", f.name()))
	defer live.Close()
	w := f.watcher()
	w.Lost = func() { live.Set(term.Unanswered, f.block()...) }
	err = w.Until(ctx, func(r api.Run, _ string) (bool, error) {
		f.run = r
		live.Set(fmt.Sprintf("Waiting for %s to end... %s", f.name(), r.Status), f.block()...)
		again = !r.Status.Finished() && (r.Status == api.RunPending || f.current() != "" && f.current() != submission)
		return again || r.Status.Finished(), nil
	})
	return again, err
}

func (f *followed) warn(s string) { f.Say(f.Paint(term.Warning, s)) }
