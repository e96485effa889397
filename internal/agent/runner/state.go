// Package runner is the process inside a job's container: it sets up user, code and
// files, runs the command on a terminal, keeps its output, and serves SSH.
//
// It shares a directory with the agent outside (the "task directory"):
//
//	spec.json      what to run (agentapi.JobSpec), written by the agent
//	state.json     where the job is, replaced on every change
//	job.log        the stored output: control sequences removed, append-only
//	raw.log        the output as it was printed, for clients that attach
//	runner.log     the runner's own lines
//	metrics.json   the latest sample
//	control.sock   POST /stop, POST /accept
//	server.sock    the server's API, for a plain process that may call it
//
// Uploaded code and archives lie in another directory, which containers cannot change:
// several tasks share them. Whoever is root in a container may do anything to the task
// directory, so that the agent outside reads it with [OpenShared] alone, and keeps its own
// files elsewhere.
//
// The command's output is in job.log before state.json says that it has finished, so
// that whoever sees the end sees all of it.
package runner

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Phase is where a job is.
type Phase string

// The phases in their order.
const (
	Setup    Phase = "setup"
	Running  Phase = "running"
	Finished Phase = "finished"
)

// State is what the runner tells about its job.
type State struct {
	Version     int64  `json:"version"` // grows with every change
	Phase       Phase  `json:"phase"`
	Username    string `json:"username"`
	WorkingDir  string `json:"working_dir"`
	Reason      string `json:"reason"` // once the job has ended, before it is Finished: a reason of agentapi
	Message     string `json:"message"`
	ExitStatus  *int   `json:"exit_status"`
	IdleSeconds int64  `json:"idle_seconds"`
	SSHPort     int    `json:"ssh_port"`
	HTTPPort    int    `json:"http_port"`
}

// Names of the files in a task directory.
const (
	SpecFile    = "spec.json"
	StateFile   = "state.json"
	JobLogFile  = "job.log"
	RawLogFile  = "raw.log"
	OwnLogFile  = "runner.log"
	MetricsFile = "metrics.json"
	ControlFile = "control.sock"
	ServerFile  = "server.sock"
)

// ReadState reads the state of a task directory; os.ErrNotExist before the first.
func ReadState(dir string) (State, error) {
	var s State
	return s, ReadShared(dir, StateFile, &s)
}

// OpenShared opens a file of a task directory from outside of its container. Links, pipes
// and devices are refused: they would lead out, or never end.
func OpenShared(dir, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// maxShared bounds a file that is read at once, in bytes.
const maxShared = 1 << 20

// ReadShared reads JSON from a file of a task directory.
func ReadShared(dir, name string, v any) error {
	f, err := OpenShared(dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	return DecodeShared(f, name, v)
}

// DecodeShared reads JSON from a file that [OpenShared] has opened.
func DecodeShared(f io.ReaderAt, name string, v any) error {
	if err := json.NewDecoder(io.NewSectionReader(f, 0, maxShared)).Decode(v); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// WriteFile replaces a file at once: readers see the old or the new content.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	return WriteFileOf(path, data, mode, -1, -1)
}

// WriteFileOf is WriteFile for a file of a user, -1 for one's own: it is theirs at every moment.
func WriteFileOf(path string, data []byte, mode os.FileMode, uid, gid int) error {
	err := replaceFile(path, data, mode, uid, gid)
	if named, ok := errors.AsType[*fs.PathError](err); ok {
		err = named.Err // of the file beside it, whose name is of no use to anybody
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func replaceFile(path string, data []byte, mode os.FileMode, uid, gid int) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && uid >= 0 {
		err = f.Chown(uid, gid)
	}
	if err := cmp.Or(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
