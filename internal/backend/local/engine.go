package local

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// The instance types of this machine: how it runs jobs.
const (
	InDocker    = "docker"
	asProcesses = "process"
)

// pingTimeout is how long a container engine may take to say that it is there.
const pingTimeout = time.Second

// Runs says how jobs run on this machine: in Docker where an engine answers, else as plain
// processes.
func Runs(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	network, addr := engineAddress(os.Getenv("DOCKER_HOST"))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", nil)
	if err != nil {
		return asProcesses
	}
	resp, err := client.Do(req)
	if err != nil {
		return asProcesses
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return asProcesses
	}
	return InDocker
}

// engineAddress is where DOCKER_HOST points to.
func engineAddress(host string) (network, addr string) {
	u, err := url.Parse(host)
	switch {
	case host == "" || err != nil:
		return "unix", "/var/run/docker.sock"
	case u.Scheme == "unix":
		return "unix", u.Path
	}
	return "tcp", u.Host
}
