package server

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/jobspec"
	"dstack/internal/run"
)

// environment reads variables, and collects what is wrong with them.
type environment struct {
	get   func(string) string
	wrong []error
}

// maxNumber bounds settings that become a time or the length of something.
const maxNumber = 1 << 32

// number reads a whole number that is not negative; unset is def.
func (e *environment) number(name string, def int64) int64 { return e.atLeast(0, name, def) }

// atLeast reads a whole number of at least so much; unset is def.
func (e *environment) atLeast(least int64, name string, def int64) int64 {
	v := e.get(name)
	if v == "" {
		return def
	}
	n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
	if err != nil {
		rule := "Write a whole number"
		if least > math.MinInt64 {
			rule = fmt.Sprintf("%s, %d or more", rule, least)
		}
		e.wrong = append(e.wrong, fmt.Errorf("Invalid int value: %s=%s. %s", name, v, rule))
		return def
	}
	if n < least {
		e.wrong = append(e.wrong, fmt.Errorf("%s=%s: write a whole number, %d or more", name, v, least))
		return def
	}
	return n
}

// seconds reads a number of seconds, 1 or more; unset is 0.
func (e *environment) seconds(name string) time.Duration {
	return agentapi.Seconds(min(e.atLeast(1, name, 0), maxNumber))
}

// eventTTL reads a number of seconds; 0 and less is -1, which is no log at all.
func (e *environment) eventTTL(name string) time.Duration {
	n := min(e.atLeast(math.MinInt64, name, int64(eventTTL/time.Second)), maxNumber)
	if n <= 0 {
		return -1
	}
	return agentapi.Seconds(n)
}

// duration reads seconds, or a number with a unit; unset is 0.
func (e *environment) duration(name string) time.Duration {
	d, err := seconds(e.get(name))
	if err != nil {
		e.wrong = append(e.wrong, fmt.Errorf("%s=%s: %w", name, e.get(name), err))
	}
	return d
}

// published reads what operators of the published server set and what has a meaning of its own
// only when it is set: what is not stays zero, which means the default.
func (e *environment) published(c *Config) {
	c.Resting = e.get("DSTACK_SERVER_BACKGROUND_PROCESSING_DISABLED") != ""
	c.Images = jobspec.Images{
		Base: e.get("DSTACK_DOCKER_BASE_IMAGE"), Version: e.get("DSTACK_DOCKER_BASE_IMAGE_VERSION"), Ubuntu: e.get("DSTACK_DOCKER_BASE_IMAGE_UBUNTU_VERSION"),
		DinD: e.get("DSTACK_DIND_IMAGE"), Registry: e.get("DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY"),
	}
	user, password := e.get("DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY_USERNAME"), e.get("DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY_PASSWORD")
	if user != "" && password != "" { // both or none
		c.Images.Login = &agentapi.RegistryAuth{Username: user, Password: password}
	}
	c.KeepMetrics, c.KeepFinishedMetrics = e.seconds("DSTACK_SERVER_METRICS_RUNNING_TTL_SECONDS"), e.seconds("DSTACK_SERVER_METRICS_FINISHED_TTL_SECONDS")
	c.LogTTL = e.seconds("DSTACK_SERVER_LOGS_TTL_SECONDS")
	c.KeepHealth, c.HealthEvery = e.seconds("DSTACK_SERVER_INSTANCE_HEALTH_TTL_SECONDS"), e.seconds("DSTACK_SERVER_INSTANCE_HEALTH_MIN_COLLECT_INTERVAL_SECONDS")
	c.Limits = jobspec.Limits{
		Probes:       int(min(e.atLeast(1, "DSTACK_SERVER_MAX_PROBES_PER_JOB", 0), maxNumber)),
		ProbeTimeout: int64(e.seconds("DSTACK_SERVER_MAX_PROBE_TIMEOUT") / time.Second),
		Window:       int64(c.KeepMetrics / time.Second), // there are no older samples to look at
	}
	c.MaxOffers = int(min(e.atLeast(1, "DSTACK_SERVER_MAX_OFFERS_TRIED", 0), maxNumber))
	c.ConnectTimeout = e.seconds("DSTACK_SERVER_SSH_CONNECT_TIMEOUT")
	if e.get("DSTACK_DB_POOL_SIZE") != "" || e.get("DSTACK_DB_MAX_OVERFLOW") != "" { // the other's default is the published server's
		c.DBConns = int(min(e.atLeast(1, "DSTACK_DB_POOL_SIZE", 20), maxNumber) + min(e.number("DSTACK_DB_MAX_OVERFLOW", 20), maxNumber))
	}
	network := e.atLeast(1, "DSTACK_SERVER_JOB_NETWORK_MODE", 0)
	if network > int64(run.HostNone) {
		e.wrong = append(e.wrong, fmt.Errorf("DSTACK_SERVER_JOB_NETWORK_MODE=%d: write 1 (jobs of several nodes use the host's network), 2 (so do all that have a host to themselves) or 3 (none does)", network))
	}
	c.Network = run.Network(network)
}
