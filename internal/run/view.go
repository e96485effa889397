package run

import (
	"context"
	"strings"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/jobspec"
	"dstack/internal/scheduler"
)

// view is one run as the wire has it.
func (s *Service) view(ctx context.Context, r Run, projectName string, connect bool) (api.Run, error) {
	jobs, err := s.rows.jobsOf(ctx, s.DB.Read(), r.ID)
	if err != nil {
		return api.Run{}, err
	}
	owner, err := s.ownerOf(ctx, r)
	if err != nil {
		return api.Run{}, err
	}
	w, err := s.waiting(ctx, []Run{r}, false)
	if err != nil {
		return api.Run{}, err
	}
	out := render(time.Now(), r, jobs[r.ID], names{projectName, owner}, w[0] != nil, connect, nil)
	out.Waiting = w[0]
	s.SSHProxy.connect(&out)
	return out, nil
}

// ownerOf is the name of a run's owner. One who is not there any more has the name of nobody.
func (s *Service) ownerOf(ctx context.Context, r Run) (string, error) {
	u, err := s.Users.OrNobody(ctx, s.DB.Read(), r.UserID)
	return u.Name, err
}

// names are those of what a run belongs to.
type names struct{ project, user string }

// render is pure: rows in, wire form out (http-api 7.5), but for what a run waits for: queued
// says that it does.
func render(now time.Time, r Run, jobs []Job, of names, queued, connect bool, limit *int) api.Run {
	deleted := r.Deleted
	v := api.Run{
		ID: r.ID, ProjectName: of.project, User: of.user, SubmittedAt: api.At(r.SubmittedAt), LastProcessedAt: api.At(r.Data.ProcessedAt), Status: r.Status.Shown(),
		StatusMessage: string(r.Status), RunSpec: r.Data.Spec, Jobs: []api.Job{}, DeploymentNum: r.Data.Deployment, Deleted: &deleted,
		Service: r.Data.Service, NextTriggeredAt: api.OptTime(r.next(now)),
	}
	if v.RunSpec.RunName == nil { // in a damaged record: published clients need one
		v.RunSpec.RunName = &r.Name
	}
	if r.Data.FleetID != "" {
		v.Fleet = &api.RunFleet{ID: r.Data.FleetID, Name: r.Data.FleetName}
	}
	if r.Data.Reason != "" {
		reason := string(r.Data.Reason)
		v.TerminationReason = &reason
		if text := r.Data.Reason.Error(); text != "" {
			v.Error = &text
		}
	}
	if r.Data.Damage != "" {
		text := r.damage()
		v.Error = &text
	}
	groupJobs(now, r, jobs, connect, limit, &v)
	latest := latestOf(jobs)
	pulling, retrying := len(latest) > 0, false
	for _, j := range latest {
		pulling = pulling && j.Status == api.JobPulling
		if j.Data.Reason == api.JobNoCapacity && j.Data.Spec.Retry != nil {
			retrying = true
		}
	}
	switch {
	case queued && (r.Status == api.RunSubmitted || r.Status == api.RunPending): // not a service of which a further replica waits
		v.StatusMessage = "retrying" // the word that published clients know for it
	case pulling:
		v.StatusMessage = "pulling"
	case retrying && (r.Status == api.RunSubmitted || r.Status == api.RunPending):
		v.StatusMessage = "retrying"
	}
	return v
}

// next is when the run's schedule starts it, zero without one.
func (r *Run) next(now time.Time) time.Time {
	if r.Status.Finished() {
		return time.Time{}
	}
	sched := r.Data.Spec.Merged().Schedule
	if sched == nil {
		return time.Time{}
	}
	return sched.Next(now)
}

func groupJobs(now time.Time, r Run, jobs []Job, connect bool, limit *int, v *api.Run) {
	for _, j := range jobs {
		n := len(v.Jobs)
		if n == 0 || v.Jobs[n-1].JobSpec.JobNum != j.Num || v.Jobs[n-1].JobSpec.ReplicaNum != j.Replica {
			v.Jobs = append(v.Jobs, api.Job{JobSubmissions: []api.JobSubmission{}})
			n++
		}
		job := &v.Jobs[n-1]
		job.JobSpec = j.Data.Spec
		job.JobSubmissions = append(job.JobSubmissions, submission(j, r.Data.Spec.Configuration.DevEnvironment != nil))
		job.JobConnectionInfo = nil
		if connect && j.Status == api.JobRunning {
			job.JobConnectionInfo = connection(r, j)
		}
	}
	v.Cost = cost(now, r.Data.PastCost, jobs)
	if len(v.Jobs) > 0 {
		subs := v.Jobs[0].JobSubmissions
		last := subs[len(subs)-1]
		v.LatestJobSubmission = &last
	}
	if limit == nil {
		return
	}
	for i := range v.Jobs {
		subs := v.Jobs[i].JobSubmissions
		v.Jobs[i].JobSubmissions = subs[max(0, len(subs)-*limit):]
	}
}

func submission(j Job, dev bool) api.JobSubmission {
	v := api.JobSubmission{
		ID: j.ID, SubmissionNum: j.Attempt, DeploymentNum: j.Data.Deployment, SubmittedAt: api.At(j.SubmittedAt), LastProcessedAt: api.At(j.Data.ProcessedAt),
		FinishedAt: api.OptTime(j.Data.FinishedAt), Status: j.Status.Shown(), StatusMessage: jobMessage(j), ExitStatus: j.Data.Exit,
		JobProvisioningData: j.Data.Provisioning, JobRuntimeData: j.Data.Runtime, Probes: []api.Probe{},
	}
	if j.Status == api.JobRunning && j.Data.ProbeError != "" {
		v.ProbeError = &j.Data.ProbeError
	}
	for i := range j.Data.Spec.Probes {
		v.Probes = append(v.Probes, api.Probe{SuccessStreak: j.Data.streak(i)})
	}
	if p := v.JobProvisioningData; p != nil {
		c := *p
		if c.Hostname == nil {
			empty := ""
			c.Hostname = &empty
		}
		if c.SSHPort == nil {
			port := 22
			c.SSHPort = &port
		}
		v.JobProvisioningData = &c
	}
	if j.Data.Reason != "" {
		reason := string(j.Data.Reason)
		v.TerminationReason = &reason
		if text := j.Data.Reason.Error(); text != "" {
			v.Error = &text
		}
	}
	if j.Data.Message != "" {
		v.TerminationReasonMessage = &j.Data.Message
	}
	if t := j.Observed; t != nil {
		if t.Pull != nil && j.Status == api.JobPulling {
			v.ImagePullProgress = pull(t.Pull)
		}
		if dev && j.Status == api.JobRunning {
			idle := t.IdleSeconds
			v.InactivitySecs = &idle
		}
	}
	return v
}

func pull(p *agentapi.PullProgress) *api.ImagePullProgress {
	return &api.ImagePullProgress{DownloadedBytes: p.Downloaded, ExtractedBytes: p.Extracted, TotalBytes: p.Total, IsTotalBytesFinal: p.TotalFinal}
}

// jobMessage is the text that lists show instead of the bare status.
func jobMessage(j Job) string {
	switch j.Status {
	case api.JobDone:
		return "exited (0)"
	case api.JobTerminated:
		if j.Data.Reason == api.JobTerminatedByUser {
			return "stopped"
		}
	case api.JobAborted:
		return "aborted"
	case api.JobFailed:
		switch {
		case j.Data.Exit != nil:
			return "exited (" + itoa(*j.Data.Exit) + ")"
		case j.Data.Reason == api.JobNoCapacity && strings.HasPrefix(j.Data.Message, scheduler.NoFleet):
			return "no fleets"
		case j.Data.Reason == api.JobNoCapacity:
			return "no capacity"
		case j.Data.Reason == api.JobInterruptedByNoCapacity:
			return "interrupted"
		}
		return "error"
	}
	return string(j.Status)
}

func connection(r Run, j Job) *api.JobConnectionInfo {
	host := r.Name
	if j.Num != 0 || j.Replica != 0 {
		host = j.Data.Spec.JobName
	}
	c := &api.JobConnectionInfo{AttachedSSHCommand: []string{"ssh", host}}
	dev := r.Data.Spec.Configuration.DevEnvironment
	if dev == nil || dev.IDE == nil || j.Data.Runtime == nil || j.Data.Runtime.WorkingDir == nil {
		return c
	}
	title, url := jobspec.IDE(*dev.IDE, host, *j.Data.Runtime.WorkingDir)
	c.IDEName, c.AttachedIDEURL = &title, &url
	return c
}
