// Package shim is the agent of a host: it owns the tasks' containers, watches what the
// runners inside write, and tells the server through one stream of events.
//
// What matters survives the agent: every task has a directory with its spec and state,
// written before the step that they announce, and the runners write their logs to files.
// So the stream needs no queue on disk: after a restart it begins again where the server
// last acknowledged, from the files.
package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// Files of a task's folder that are the shim's. The job has none of them: beside them lie
// its own directory and that of its uploads, and only these are seen in containers.
const (
	taskFile  = "task.json" // the whole spec: container and job
	stateFile = "shim.json" // agentapi.Task as last changed by the shim
	acksFile  = "acks.json" // what the server has stored
)

// acked is what the server has stored of a task.
type acked struct {
	JobLog    int64 `json:"job_log"`
	RunnerLog int64 `json:"runner_log"`
}

// possible takes offsets back to the beginning that lie where a task's logs cannot have got: from there nothing would
// ever be told. What the server has already it skips.
func (a acked) possible(v agentapi.Task) acked {
	if a.JobLog < 0 || a.JobLog > v.JobLog {
		a.JobLog = 0
	}
	if a.RunnerLog < 0 || a.RunnerLog > v.RunnerLog {
		a.RunnerLog = 0
	}
	return a
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any, mode os.FileMode) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return runner.WriteFile(path, data, mode)
}

// prepare lays a task directory out: the spec for us, the job for the runner, its blobs.
func (s *Shim) prepare(spec agentapi.TaskSpec) error {
	dir, job, blobs := s.taskDir(spec.ID), s.jobDir(spec.ID), s.blobsDir(spec.ID)
	for _, d := range []string{job, blobs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make the task's folders: %w", err)
		}
	}
	for _, sum := range blobsOf(spec) {
		to := filepath.Join(blobs, sum)
		if _, err := os.Lstat(to); err == nil {
			continue // laid out again: the upload itself may have been swept
		}
		if err := os.Link(s.blobPath(sum), to); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("link blob %s: %w", sum, err)
		}
	}
	for _, name := range []string{runner.JobLogFile, runner.OwnLogFile} {
		f, err := os.OpenFile(filepath.Join(job, name), os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("make the task's logs: %w", err)
		}
		f.Close()
	}
	if err := writeJSON(filepath.Join(job, runner.SpecFile), spec.Job, 0o600); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, taskFile), spec, 0o600); err != nil {
		return err
	}
	return durable(filepath.Join(dir, taskFile))
}

// durable waits until a file and its name are on disk: a task that was accepted is known
// after a power failure.
func durable(path string) error {
	for _, p := range []string{path, filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil {
			return fmt.Errorf("write %s to disk: %w", p, err)
		}
	}
	return nil
}

func (s *Shim) taskDir(id string) string { return filepath.Join(s.Home, "tasks", id) }

func (s *Shim) jobDir(id string) string   { return filepath.Join(s.taskDir(id), runtime.JobDir) }
func (s *Shim) blobsDir(id string) string { return filepath.Join(s.taskDir(id), "blobs") }
