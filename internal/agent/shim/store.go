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
	"strings"

	"github.com/google/uuid"

	"dstack/internal/agent/runner"
	"dstack/internal/agentapi"
)

// Files of a task directory that are the shim's.
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

func validID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

// validName keeps names fit for containers and folders.
func validName(s string) bool {
	return s != "" && len(s) <= 100 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == "" && s[0] != '.' && s[0] != '-'
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
	dir := s.taskDir(spec.ID)
	if err := os.MkdirAll(filepath.Join(dir, runner.BlobsDir), 0o755); err != nil {
		return fmt.Errorf("make the task's folder: %w", err)
	}
	for _, sum := range blobsOf(spec) {
		to := filepath.Join(dir, runner.BlobsDir, sum)
		err := os.Link(s.blobPath(sum), to)
		if errors.Is(err, os.ErrExist) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("link blob %s: %w", sum, err)
		}
	}
	for _, name := range []string{runner.JobLogFile, runner.OwnLogFile} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("make the task's logs: %w", err)
		}
		f.Close()
	}
	if err := writeJSON(filepath.Join(dir, runner.SpecFile), spec.Job, 0o600); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, taskFile), spec, 0o600)
}

func blobsOf(spec agentapi.TaskSpec) []string {
	var sums []string
	if r := spec.Job.Repo; r != nil && r.Blob != "" {
		sums = append(sums, r.Blob)
	}
	for _, f := range spec.Job.Files {
		sums = append(sums, f.Blob)
	}
	return sums
}

func validSum(sum string) bool {
	return len(sum) == 64 && strings.Trim(sum, "0123456789abcdef") == ""
}

func (s *Shim) taskDir(id string) string   { return filepath.Join(s.Home, "tasks", id) }
func (s *Shim) blobPath(sum string) string { return filepath.Join(s.Home, "blobs", sum) }
