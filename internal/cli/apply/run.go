package apply

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"dstack/internal/api"
	"dstack/internal/cli/attach"
	"dstack/internal/cli/client"
	"dstack/internal/cli/follow"
	"dstack/internal/cli/format"
	"dstack/internal/cli/profile"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// applyRun plans a run, asks, submits it, and follows it to its end.
func applyRun(ctx context.Context, o Options, f File) error {
	if err := o.prepare(f.Run); err != nil {
		return err
	}
	prof, err := profile.Load(o.Program, o.Override)
	if err != nil {
		return err
	}
	key, err := o.publicKey()
	if err != nil {
		return err
	}
	o.detectIDE(ctx, f.Run)
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	ra := runApply{Options: o, conn: c}
	if err := ra.makePlan(ctx, f, prof, key); err != nil {
		return err
	}
	hasFleets := func() (bool, error) {
		fs, err := c.ListProjectFleets(ctx, c.Project, api.ListProjectFleetsRequest{IncludeImported: true})
		return len(fs) > 0, err
	}
	if err := o.printRunPlan(ra.plan, hasFleets); err != nil {
		return err
	}
	d, err := decide(ra.plan)
	if err != nil {
		return err
	}
	if d.message != "" {
		o.Println(d.message)
	}
	if d.same && o.Yes && !o.Force {
		o.Println("Use --force to apply anyway.")
		return nil
	}
	if ok, err := o.Agreed(ctx, o.Yes, d.question); err != nil || !ok {
		return err
	}
	return ra.execute(ctx, d)
}

type runApply struct {
	Options
	conn *program.Conn
	repo repo
	plan api.RunPlan
}

func (ra *runApply) makePlan(ctx context.Context, f File, prof *config.Profile, key *string) error {
	return ra.While("Getting apply plan...", func() error {
		common := f.Run.Common()
		repo, err := ra.findRepo(ctx, ra.conn, f.dir, common)
		if err != nil {
			return err
		}
		ra.repo = repo
		archives, err := ra.uploadFiles(ctx, ra.conn, f.dir, common.Files)
		if err != nil {
			return err
		}
		spec := api.RunSpec{
			RunName: common.Name, RepoID: &repo.id, RepoData: &repo.data, RepoCodeHash: repo.hash, FileArchives: archives,
			ConfigurationPath: &f.Path, Configuration: *f.Run, Profile: prof, SSHKeyPub: key,
		}
		if len(common.Repos) > 0 {
			spec.RepoDir = &common.Repos[0].Path
		}
		ra.plan, err = ra.conn.GetRunPlan(ctx, ra.conn.Project, client.RunPlanRequest{
			GetRunPlanRequest: api.GetRunPlanRequest{RunSpec: spec, MaxOffers: &ra.MaxOffers},
			FullOffers:        ra.FullOffers, UnallocatedResources: ra.Unallocated,
		})
		if err == nil && len(ra.plan.JobPlans) == 0 {
			return errors.New("the server's plan has no jobs")
		}
		return err
	})
}

// execute does what was agreed on.
func (ra *runApply) execute(ctx context.Context, d decision) error {
	var forwards []*attach.Forward
	if !ra.Detach {
		var err error
		if forwards, err = ra.reserve(ctx); err != nil {
			return err
		}
	}
	beside := ra.mayRunHere()
	if beside {
		attach.Release(forwards) // it is known that they are free
	}
	submitted := false
	defer func() {
		if !submitted {
			attach.Release(forwards)
		}
	}()
	if d.override {
		if err := ra.While("Stopping run...", func() error { return ra.stopCurrent(ctx) }); err != nil {
			return err
		}
	}
	var run api.Run
	err := ra.While("Applying plan...", func() (err error) {
		if len(ra.repo.diff) > 0 {
			if err := ra.conn.UploadCode(ctx, ra.conn.Project, ra.repo.id, *ra.repo.hash, bytes.NewReader(ra.repo.diff)); err != nil {
				return fmt.Errorf("upload the changes of the repository: %w", err)
			}
		}
		req := api.ApplyRunPlanRequest{}
		req.Plan.RunSpec = ra.plan.RunSpec
		if ra.plan.CurrentResource != nil {
			if req.Plan.CurrentResource, err = json.Marshal(ra.plan.CurrentResource); err != nil {
				return fmt.Errorf("apply the plan: %w", err)
			}
		}
		run, err = ra.conn.ApplyRunPlan(ctx, ra.conn.Project, req)
		if err == nil && run.RunSpec.RunName == nil {
			return errors.New("the server's answer names no run")
		}
		return err
	})
	if err != nil {
		return err
	}
	if ra.Detach {
		ra.Printf("Run %s %s, detaching...\n", *run.RunSpec.RunName, d.done)
		return nil
	}
	submitted = true
	return followRun(ctx, followed{Options: ra.Options, conn: ra.conn, run: run, forwards: forwards, beside: beside})
}

// reserve opens the local ports before anything is submitted or stopped.
func (ra *runApply) reserve(ctx context.Context) ([]*attach.Forward, error) {
	ports, err := attach.Ports(ra.plan.JobPlans[0].JobSpec, nil)
	if err != nil {
		return nil, err
	}
	fs, err := attach.Reserve(ctx, ra.Host, ports)
	if busy, ok := errors.AsType[*attach.PortInUseError](err); ok {
		return nil, fmt.Errorf("Failed to submit: port %d is already in use. Use -p in dstack apply to override the local port mapping, e.g. -p %d:%d.",
			busy.Port, busy.Port+1, busy.Port)
	}
	return fs, err
}

// mayRunHere reports whether the job may become a process on this machine.
func (ra *runApply) mayRunHere() bool {
	return slices.ContainsFunc(ra.plan.JobPlans[0].Offers, func(o api.InstanceOffer) bool {
		return o.Backend == localBackend
	})
}

// localBackend runs jobs on the server's machine, which often is the user's.
const localBackend = "local"

// stopCurrent stops the active run and waits until it has ended.
func (ra *runApply) stopCurrent(ctx context.Context) error {
	current := ra.plan.CurrentResource
	req := api.StopRunsRequest{RunsNames: []string{format.Text(current.RunSpec.RunName)}}
	if err := ra.conn.StopRuns(ctx, ra.conn.Project, req); err != nil {
		return err
	}
	w := follow.Watcher{Conn: ra.conn, ID: current.ID}
	err := w.Until(ctx, func(r api.Run, _ string) (bool, error) { return r.Status.Finished(), nil })
	if program.NotFound(err) {
		return nil
	}
	return err
}

// publicKey is the key that the run shall accept; nil lets the server take the user's.
func (o Options) publicKey() (*string, error) {
	if o.SSHIdentity == "" {
		return nil, nil
	}
	key, err := attach.PublicKey(o.Path("", o.SSHIdentity))
	if err != nil {
		return nil, err
	}
	return &key, nil
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// failure is the red line at the end of a run that did not succeed.
func (o Options) failure(s string) { o.Println(o.Paint(term.Error, s)) }
