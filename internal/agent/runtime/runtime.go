// Package runtime runs containers for the agent: with a Docker engine, or, where there is
// none, as plain processes. Package runtimetest states what a runtime must do.
package runtime

import (
	"context"
	"errors"

	"dstack/internal/agentapi"
)

// Container is what a runtime starts: the agent's own binary as runner on a task directory,
// inside the task's image.
type Container struct {
	ID   string // task id
	Name string // for people who list containers
	Dir  string // task directory on the host, the job's to write
	// Blobs is the directory of its uploads on the host, the job's to read.
	Blobs string
	Spec  agentapi.TaskSpec
	GPUs  []agentapi.GPU // held by the task
	// Vendor of GPUs: "nvidia", "amd", "intel", "tenstorrent" or "".
	Vendor string
}

// Exit is how a container ended.
type Exit struct {
	Code int    // -1 when it is not known
	Tail string // its last own output, for people
}

// Found is a container of ours that a runtime knows.
type Found struct {
	ID      string // task id
	Running bool
	GPUs    []string // ids of those that it was made with; nil when that is not known
}

// ErrNotFound says that the runtime has no such container.
var ErrNotFound = errors.New("runtime: no such container")

// ErrAway says that the container engine did not answer, or not to the end: it is stopped, is starting, or has been
// started again meanwhile. What was asked of it may be done, or not, and may be asked again.
var ErrAway = errors.New("the container engine does not answer")

// ImageError says that the image cannot be had: wrong name, wrong credentials, no network.
type ImageError struct{ Msg string }

func (e *ImageError) Error() string { return e.Msg }

// Runtime runs containers. All methods may be repeated after a crash.
type Runtime interface {
	Name() string
	// Version also shows that the engine answers.
	Version(ctx context.Context) (string, error)
	// Pull gets the image when it is needed and calls progress while bytes arrive.
	Pull(ctx context.Context, c Container, progress func(agentapi.PullProgress)) error
	// Start makes and starts the container; one that exists is left as it is. When ctx ends
	// before, Remove finds what was made.
	Start(ctx context.Context, c Container) error
	// Ports maps the runner's ports inside to ports of the host; empty when they are the same.
	Ports(ctx context.Context, id string) (map[int]int, error)
	// Wait returns when the container has ended.
	Wait(ctx context.Context, id string) (Exit, error)
	// Kill ends the container at once; ErrNotFound when there is none.
	Kill(ctx context.Context, id string) error
	// Remove deletes what is left of the container; an absent one is no error.
	Remove(ctx context.Context, id string) error
	// List finds all containers of this agent, also those that no task remembers.
	List(ctx context.Context) ([]Found, error)
}
