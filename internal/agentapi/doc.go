// Package agentapi is the protocol between the server and the agent on a host:
// the types both sides share and the client that the server uses.
//
// The agent ("shim") serves HTTP/1.1 with JSON bodies on a Unix socket; the server
// reaches it through the host's SSH connection. Every command is idempotent by task
// id, so a lost reply is answered by sending the command again. What happens on the
// host flows back as one event stream with sequence numbers that the agent keeps
// until the server acknowledges them.
//
//	GET    /v1/host                       HostInfo
//	GET    /v1/tasks                      []Task
//	PUT    /v1/tasks/{id}                 TaskSpec → Task (repeated: the task as it is)
//	POST   /v1/tasks/{id}/terminate       Terminate → Task
//	DELETE /v1/tasks/{id}                 forget a terminated task and its files
//	GET    /v1/tasks/{id}/logs?source=job&offset=0   raw bytes from offset (recovery)
//	POST   /v1/tasks/{id}/accept          held until the task calls the server, then 101 and
//	                                      that connection ([Client.Accept])
//	HEAD   /v1/blobs/{sha256}             200 when the agent holds it
//	PUT    /v1/blobs/{sha256}             content; the hash is checked
//	GET    /v1/events?after=<seq>         NDJSON of Event, held open; idle streams carry a
//	                                      heartbeat event every [HeartbeatEvery]; health=<s>
//	                                      and dcgm=1 ask for more, server=<id> says who
//	                                      listens, see [Wish]
//	POST   /v1/events/ack                 Ack: events up to Seq may be dropped, but for some tasks
//	POST   /v1/shutdown                   stop the agent, leave the containers running
//
// Errors are [Error] bodies with a 4xx or 5xx status. Both sides must ignore unknown
// fields and unknown event kinds: server and agent may be one version apart.
package agentapi

import "time"

// Version is the protocol's version, reported in [HostInfo]. It grows when a side has to
// behave differently for the other.
//
//	1  first
const Version = 1

const (
	// SocketName is the agent's socket inside its home directory.
	SocketName = "agent.sock"
	// DefaultHome is where the agent of a host run as root keeps its state.
	DefaultHome = "/var/lib/dstack"
	// HeartbeatEvery is how often an idle event stream says that it lives.
	HeartbeatEvery = 15 * time.Second
	// MaxBody bounds every JSON body in both directions, in bytes.
	MaxBody = 4 << 20
	// MaxEvent bounds one line of the event stream, in bytes.
	MaxEvent = 1 << 20
	// MaxLogChunk bounds the data of one log event, in bytes before base64.
	MaxLogChunk = 256 << 10

	// RunnerSSHPort and RunnerHTTPPort are the ports that a runner listens on inside its
	// container (host-agents 0.2); published clients rely on them.
	RunnerSSHPort  = 10022
	RunnerHTTPPort = 10999
)
