package server

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
	"dstack/internal/jobspec"
	"dstack/internal/run"
)

func TestSettings(t *testing.T) {
	defaults := Config{Dir: "/home/me/.dstack/server", CodeLimit: 2 << 20, LogQuota: 50 << 20, ProjectQuota: 10, EventTTL: 720 * time.Hour}
	for name, c := range map[string]struct {
		env  map[string]string
		want func(*Config)
		err  string
	}{
		"nothing": {nil, func(*Config) {}, ""},
		"everything": {map[string]string{
			"DSTACK_SERVER_DIR": "/srv/d", "DSTACK_DATABASE_URL": "postgres://x", "DSTACK_SERVER_URL": "https://d.example.com/", "DSTACK_SERVER_CONFIG_DISABLED": "1",
			"DSTACK_SERVER_CODE_UPLOAD_LIMIT": "5", "DSTACK_SERVER_LOG_QUOTA_PER_JOB_HOUR": "0", "DSTACK_USER_PROJECT_DEFAULT_QUOTA": "7",
			"DSTACK_SERVER_EVENTS_TTL_SECONDS": "60", "DSTACK_ENABLE_PROMETHEUS_METRICS": "1", "DSTACK_PROMETHEUS_AUTH_TOKEN": "t",
			"DSTACK_SERVER_UNREACHABLE_GRACE": "10m"},
			func(c *Config) {
				*c = Config{Dir: "/srv/d", DBURL: "postgres://x", PublicURL: "https://d.example.com", NoFile: true, CodeLimit: 5, ProjectQuota: 7,
					EventTTL: time.Minute, Prometheus: true, PrometheusToken: "t", LostAfter: 10 * time.Minute}
			}, ""},
		"an SSH proxy": {map[string]string{"DSTACK_SSHPROXY_API_TOKEN": "s", "DSTACK_SERVER_SSHPROXY_ADDRESS": "ssh.example.com:2222", "DSTACK_SERVER_TEMPLATES_REPO": "https://example.com/t"},
			func(c *Config) {
				c.SSHProxyToken, c.SSHProxy, c.TemplatesRepo = "s", run.SSHProxy{Host: "ssh.example.com", Port: 2222}, "https://example.com/t"
			}, ""},
		"services": {map[string]string{"DSTACK_SERVICE_CLIENT_TIMEOUT": "5m", "DSTACK_FORBID_SERVICES_WITHOUT_GATEWAY": "1"},
			func(c *Config) { c.ServiceTimeout, c.ForbidBareServices = 5*time.Minute, true }, ""},
		"a hub":            {map[string]string{"DSTACK_ENDPOINT_HUGGINGFACE": "http://127.0.0.1:1/"}, func(c *Config) { c.HubURL = "http://127.0.0.1:1" }, ""},
		"no hub":           {map[string]string{"DSTACK_ENDPOINT_HUGGINGFACE": "hub"}, nil, "DSTACK_ENDPOINT_HUGGINGFACE=hub: write http://host:port or https://host"},
		"no calls of jobs": {map[string]string{"DSTACK_FORBID_DSTACK_IN_RUNS": "1"}, func(c *Config) { c.ForbidJobAccess = true }, ""},
		"an SSH proxy without a way around it": {map[string]string{"DSTACK_SSHPROXY_API_TOKEN": "s", "DSTACK_SERVER_SSHPROXY_ADDRESS": "ssh.example.com", "DSTACK_SERVER_SSHPROXY_ENFORCED": "1"},
			func(c *Config) {
				c.SSHProxyToken, c.SSHProxy = "s", run.SSHProxy{Host: "ssh.example.com", Enforced: true}
			}, ""},
		"no SSH proxy to enforce": {map[string]string{"DSTACK_SERVER_SSHPROXY_ENFORCED": "1"}, func(*Config) {}, ""},
		"images": {map[string]string{"DSTACK_DOCKER_BASE_IMAGE": "b", "DSTACK_DOCKER_BASE_IMAGE_VERSION": "1", "DSTACK_DOCKER_BASE_IMAGE_UBUNTU_VERSION": "26.04", "DSTACK_DIND_IMAGE": "d",
			"DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY": "r.example.com", "DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY_USERNAME": "u", "DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY_PASSWORD": "p"},
			func(c *Config) {
				c.Images = jobspec.Images{Base: "b", Version: "1", Ubuntu: "26.04", DinD: "d", Registry: "r.example.com", Login: &agentapi.RegistryAuth{Username: "u", Password: "p"}}
			}, ""},
		"half a login": {map[string]string{"DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY_USERNAME": "u"}, func(*Config) {}, ""},
		"metrics": {map[string]string{"DSTACK_SERVER_METRICS_RUNNING_TTL_SECONDS": "7200", "DSTACK_SERVER_METRICS_FINISHED_TTL_SECONDS": "60"},
			func(c *Config) {
				c.KeepMetrics, c.KeepFinishedMetrics, c.Limits.Window = 2*time.Hour, time.Minute, 7200
			}, ""},
		"logs": {map[string]string{"DSTACK_SERVER_LOGS_TTL_SECONDS": "86400"}, func(c *Config) { c.LogTTL = 24 * time.Hour }, ""},
		"health": {map[string]string{"DSTACK_SERVER_INSTANCE_HEALTH_TTL_SECONDS": "3600", "DSTACK_SERVER_INSTANCE_HEALTH_MIN_COLLECT_INTERVAL_SECONDS": "10"},
			func(c *Config) { c.KeepHealth, c.HealthEvery = time.Hour, 10*time.Second }, ""},
		"bounds": {map[string]string{"DSTACK_SERVER_MAX_PROBES_PER_JOB": "3", "DSTACK_SERVER_MAX_PROBE_TIMEOUT": "20", "DSTACK_SERVER_MAX_OFFERS_TRIED": "4", "DSTACK_SERVER_SSH_CONNECT_TIMEOUT": "5"},
			func(c *Config) {
				c.Limits, c.MaxOffers, c.ConnectTimeout = jobspec.Limits{Probes: 3, ProbeTimeout: 20}, 4, 5*time.Second
			}, ""},
		"no offers":               {map[string]string{"DSTACK_SERVER_MAX_OFFERS_TRIED": "0"}, nil, "DSTACK_SERVER_MAX_OFFERS_TRIED=0: write a whole number, 1 or more"},
		"connections":             {map[string]string{"DSTACK_DB_POOL_SIZE": "3", "DSTACK_DB_MAX_OVERFLOW": "4"}, func(c *Config) { c.DBConns = 7 }, ""},
		"half of the connections": {map[string]string{"DSTACK_DB_MAX_OVERFLOW": "0"}, func(c *Config) { c.DBConns = 20 }, ""},
		"no work":                 {map[string]string{"DSTACK_SERVER_BACKGROUND_PROCESSING_DISABLED": "0"}, func(c *Config) { c.Resting = true }, ""},
		"networks":                {map[string]string{"DSTACK_SERVER_JOB_NETWORK_MODE": "3"}, func(c *Config) { c.Network = run.HostNone }, ""},
		"no such network": {map[string]string{"DSTACK_SERVER_JOB_NETWORK_MODE": "4"}, nil,
			"DSTACK_SERVER_JOB_NETWORK_MODE=4: write 1 (jobs of several nodes use the host's network), 2 (so do all that have a host to themselves) or 3 (none does)"},
		"no number of a network": {map[string]string{"DSTACK_SERVER_JOB_NETWORK_MODE": "host"}, nil, "Invalid int value: DSTACK_SERVER_JOB_NETWORK_MODE=host. Write a whole number, 1 or more"},
		"half an SSH proxy":      {map[string]string{"DSTACK_SERVER_SSHPROXY_ADDRESS": "ssh.example.com"}, func(*Config) {}, ""},
		"no port": {map[string]string{"DSTACK_SSHPROXY_API_TOKEN": "s", "DSTACK_SERVER_SSHPROXY_ADDRESS": "ssh.example.com:x"}, nil,
			"DSTACK_SERVER_SSHPROXY_ADDRESS=ssh.example.com:x: write HOSTNAME or HOSTNAME:PORT"},
		"no limit":     {map[string]string{"DSTACK_SERVER_CODE_UPLOAD_LIMIT": "0"}, func(c *Config) { c.CodeLimit = -1 }, ""},
		"no number":    {map[string]string{"DSTACK_SERVER_CODE_UPLOAD_LIMIT": "2MB"}, nil, "Invalid int value: DSTACK_SERVER_CODE_UPLOAD_LIMIT=2MB. Write a whole number, 0 or more"},
		"negative":     {map[string]string{"DSTACK_SERVER_LOG_QUOTA_PER_JOB_HOUR": "-1"}, nil, "DSTACK_SERVER_LOG_QUOTA_PER_JOB_HOUR=-1: write a whole number, 0 or more"},
		"no URL":       {map[string]string{"DSTACK_SERVER_URL": "d.example.com"}, nil, "DSTACK_SERVER_URL=d.example.com: write http://host:port or https://host"},
		"bare seconds": {map[string]string{"DSTACK_SERVER_UNREACHABLE_GRACE": "90"}, func(c *Config) { c.LostAfter = 90 * time.Second }, ""},
		"no duration":  {map[string]string{"DSTACK_SERVER_UNREACHABLE_GRACE": "soon"}, nil, "DSTACK_SERVER_UNREACHABLE_GRACE=soon: write seconds, or a number with a unit such as 10m"},
		"space around": {map[string]string{"DSTACK_SERVER_MAX_OFFERS_TRIED": " 5"}, func(c *Config) { c.MaxOffers = 5 }, ""},
		"no images": {map[string]string{"DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY": "https://r", "DSTACK_DOCKER_BASE_IMAGE": "my image", "DSTACK_DOCKER_BASE_IMAGE_VERSION": "a:b", "DSTACK_DIND_IMAGE": "dind:"}, nil,
			"DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY=https://r: write HOST, HOST:PORT or HOST/PATH, without a scheme\n" +
				"DSTACK_DOCKER_BASE_IMAGE=my image: write the name of an image\nDSTACK_DIND_IMAGE=dind:: write the name of an image\n" +
				"DSTACK_DOCKER_BASE_IMAGE_VERSION=a:b: write a part of a tag, such as 24.04"},
		"no events":               {map[string]string{"DSTACK_SERVER_EVENTS_TTL_SECONDS": "0"}, func(c *Config) { c.EventTTL = -1 }, ""},
		"no events, as published": {map[string]string{"DSTACK_SERVER_EVENTS_TTL_SECONDS": "-5"}, func(c *Config) { c.EventTTL = -1 }, ""},
		"events for ever":         {map[string]string{"DSTACK_SERVER_EVENTS_TTL_SECONDS": "9000000000000000000"}, func(c *Config) { c.EventTTL = 876_000 * time.Hour }, ""},
		"two at once": {map[string]string{"DSTACK_SERVER_URL": "x", "DSTACK_SERVER_EVENTS_TTL_SECONDS": "y"}, nil,
			"Invalid int value: DSTACK_SERVER_EVENTS_TTL_SECONDS=y. Write a whole number\nDSTACK_SERVER_URL=x: write http://host:port or https://host"},
	} {
		got, err := Settings(func(k string) string { return c.env[k] }, "/home/me")
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%s: %v, want %s", name, err, c.err)
			}
			continue
		}
		got.Env = nil
		want := defaults
		c.want(&want)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestNewLog(t *testing.T) {
	for _, c := range []struct{ level, format, want string }{
		{"WARNING", "", "warn error"},
		{"warning", "text", "warn error"},
		{"info", "rich", "info warn error"},
		{"DEBUG", "standard", "debug info warn error"},
		{"ERROR", "json", "error"},
	} {
		var b bytes.Buffer
		log, err := NewLog(&b, c.level, c.format)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("debug")
		log.Info("info")
		log.Warn("warn")
		log.Error("error")
		var got []string
		for line := range strings.Lines(b.String()) {
			for _, word := range []string{"debug", "info", "warn", "error"} {
				if strings.Contains(line, `msg=`+word) || strings.Contains(line, `"message":"`+word) {
					got = append(got, word)
				}
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("level %s, format %s: %q, want %q", c.level, c.format, s, c.want)
		}
	}
	var b bytes.Buffer
	log, err := NewLog(&b, "INFO", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("started", "run", "r1")
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["timestamp"] == nil || line["level"] != "INFO" || line["message"] != "started" || line["logger"] != "dstack" || line["run"] != "r1" {
		t.Errorf("a line of JSON is %s, %v", b.String(), err)
	}
	for _, c := range [][2]string{{"LOUD", ""}, {"", ""}, {"INFO", "xml"}} {
		if _, err := NewLog(&b, c[0], c[1]); err == nil {
			t.Errorf("level %q, format %q were taken", c[0], c[1])
		}
	}
}
