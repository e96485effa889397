package server

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"dstack/internal/run"
)

// varHub says where the hub of models is instead.
const varHub = "DSTACK_ENDPOINT_HUGGINGFACE"

// Settings reads what the environment says about a server; Host, Port, Token and Log are the
// command line's. home is the user's home directory. All that is wrong is reported at once.
func Settings(getenv func(string) string, home string) (Config, error) {
	env := environment{get: getenv}
	c := Config{
		Env: getenv,
		Dir: getenv("DSTACK_SERVER_DIR"), DBURL: getenv("DSTACK_DATABASE_URL"), PublicURL: strings.TrimRight(getenv("DSTACK_SERVER_URL"), "/"),
		NoFile:       getenv("DSTACK_SERVER_CONFIG_DISABLED") != "",
		CodeLimit:    env.number("DSTACK_SERVER_CODE_UPLOAD_LIMIT", codeLimit),
		LogQuota:     env.number("DSTACK_SERVER_LOG_QUOTA_PER_JOB_HOUR", 50<<20),
		ProjectQuota: int(min(env.number("DSTACK_USER_PROJECT_DEFAULT_QUOTA", projectQuota), 1<<30)),
		EventTTL:     env.eventTTL("DSTACK_SERVER_EVENTS_TTL_SECONDS"),
		LostAfter:    env.duration("DSTACK_SERVER_UNREACHABLE_GRACE"),
		Prometheus:   getenv("DSTACK_ENABLE_PROMETHEUS_METRICS") != "", PrometheusToken: getenv("DSTACK_PROMETHEUS_AUTH_TOKEN"),
		SSHProxyToken: getenv("DSTACK_SSHPROXY_API_TOKEN"), TemplatesRepo: getenv("DSTACK_SERVER_TEMPLATES_REPO"),
	}
	c.HubURL = strings.TrimRight(getenv(varHub), "/")
	if c.HubURL != "" && !isURL(c.HubURL) {
		env.wrong = append(env.wrong, fmt.Errorf("%s=%s: write http://host:port or https://host", varHub, c.HubURL))
	}
	c.ServiceTimeout = env.duration("DSTACK_SERVICE_CLIENT_TIMEOUT")
	c.ForbidBareServices = getenv("DSTACK_FORBID_SERVICES_WITHOUT_GATEWAY") != ""
	c.ForbidJobAccess = getenv("DSTACK_FORBID_DSTACK_IN_RUNS") != ""
	env.published(&c)
	var wrong []error
	c.Storage, wrong = storage(getenv)
	env.wrong = append(env.wrong, wrong...)
	env.wrong = append(env.wrong, checkForms(getenv, runForms)...)
	if c.Dir == "" {
		c.Dir = filepath.Join(home, ".dstack", "server")
	}
	if address := getenv("DSTACK_SERVER_SSHPROXY_ADDRESS"); address != "" && c.SSHProxyToken != "" { // both or none
		proxy, err := sshProxyAddress(address)
		if err != nil {
			env.wrong = append(env.wrong, fmt.Errorf("DSTACK_SERVER_SSHPROXY_ADDRESS=%s: %w", address, err))
		}
		c.SSHProxy = proxy
		c.SSHProxy.Enforced = getenv("DSTACK_SERVER_SSHPROXY_ENFORCED") != ""
	}
	if c.CodeLimit == 0 { // off
		c.CodeLimit = -1
	}
	if c.PublicURL != "" && !isURL(c.PublicURL) {
		env.wrong = append(env.wrong, fmt.Errorf("DSTACK_SERVER_URL=%s: write http://host:port or https://host", c.PublicURL))
	}
	return c, errors.Join(env.wrong...)
}

// sshProxyAddress reads HOSTNAME[:PORT].
func sshProxyAddress(s string) (run.SSHProxy, error) {
	host, text, has := strings.Cut(s, ":")
	p := run.SSHProxy{Host: host}
	if has {
		p.Port, _ = strconv.Atoi(text) // 0 is refused like what is no number
	}
	if strings.Trim(strings.ToLower(host), "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || host == "" || has && (p.Port < 1 || p.Port > 65535) {
		return run.SSHProxy{}, errors.New("write HOSTNAME or HOSTNAME:PORT")
	}
	return p, nil
}

// seconds reads seconds, or a number with a unit such as 10m; "" is 0.
func seconds(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		s = strconv.Itoa(n) + "s"
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("write seconds, or a number with a unit such as 10m")
	}
	return d, nil
}

// NewLog makes the server's log. level is DEBUG, INFO, WARNING or ERROR, in any case; format
// is "json" (keys timestamp, logger, level, message) or, for people, "text"; the words of the
// published server for that, "rich" and "standard", mean the same, as does "".
func NewLog(w io.Writer, level, format string) (*slog.Logger, error) {
	levels := map[string]slog.Level{"DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo, "WARNING": slog.LevelWarn, "WARN": slog.LevelWarn, "ERROR": slog.LevelError, "CRITICAL": slog.LevelError}
	at, ok := levels[strings.ToUpper(level)]
	if !ok {
		return nil, fmt.Errorf("log level %q: use DEBUG, INFO, WARNING or ERROR", level)
	}
	switch format {
	case "json":
		names := map[string]string{slog.TimeKey: "timestamp", slog.MessageKey: "message"}
		h := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: at, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if name := names[a.Key]; name != "" && len(groups) == 0 {
				a.Key = name
			}
			return a
		}})
		return slog.New(h).With("logger", "dstack"), nil
	case "", "text", "rich", "standard":
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: at})), nil
	}
	return nil, fmt.Errorf("DSTACK_SERVER_LOG_FORMAT=%s: use text or json", format)
}
