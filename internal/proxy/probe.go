package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/run"
)

// maxProbeAnswer bounds what is read of an answer to a probe, in bytes.
const maxProbeAnswer = 64 << 10

// Probe asks a replica whether it is well; nil is yes.
func (p *Proxy) Probe(ctx context.Context, e run.Endpoint, spec api.ProbeSpec) error {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, endpointKey{}, e), time.Duration(spec.Timeout)*time.Second)
	defer cancel()
	if run.Connects(spec) {
		c, err := p.Dial(ctx, e)
		if err != nil {
			return fmt.Errorf("port %d: %w", e.Port, plainly(err, spec.Timeout))
		}
		return c.Close()
	}
	var body io.Reader
	if spec.Body != nil {
		body = strings.NewReader(*spec.Body)
	}
	req, err := http.NewRequestWithContext(ctx, strings.ToUpper(spec.Method), "http://"+e.JobID+spec.URL, body)
	if err != nil {
		return fmt.Errorf("probe %s: %w", spec.URL, err)
	}
	req.Host, req.Close = "dstack", true // nothing is kept between probes
	for _, h := range spec.Headers {
		req.Header.Set(h.Name, h.Value)
		if strings.EqualFold(h.Name, "host") {
			req.Host = h.Value
		}
	}
	res, err := p.outgoing.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("probe %s: %w", spec.URL, plainly(err, spec.Timeout))
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, maxProbeAnswer) // so that the service need not see a broken connection
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("probe %s: status %d", spec.URL, res.StatusCode)
	}
	return nil
}

// plainly is an error without what differs each time, such as ports.
func plainly(err error, timeout int) error {
	op, ofNet := errors.AsType[*net.OpError](err)
	wait, slow := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), slow && wait.Timeout():
		return fmt.Errorf("no answer within %d s", timeout)
	case ofNet:
		return op.Err
	}
	return err
}

// Busy says that a replica works on requests that came through this proxy.
func (p *Proxy) Busy(jobID string) bool { return p.balance.busy(jobID) > 0 }
