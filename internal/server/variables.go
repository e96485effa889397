package server

import (
	"fmt"
	"slices"
	"strings"

	"dstack/internal/agentbin"
	"dstack/internal/backend"
	"dstack/internal/backend/all"
	"dstack/internal/catalog/collect"
)

// serverPrefix begins the names of variables that nobody but a server reads.
const serverPrefix = "DSTACK_SERVER_"

// serverVariables lists what this server reads of those, without the beginning: other names are mistakes.
var serverVariables = []string{
	"ADMIN_TOKEN", "BACKGROUND_PROCESSING_DISABLED", "BUCKET", "BUCKET_REGION", "CLOUDWATCH_LOG_GROUP", "CLOUDWATCH_LOG_REGION", "CODE_UPLOAD_LIMIT", "CONFIG_DISABLED",
	"DEFAULT_DOCKER_REGISTRY", "DEFAULT_DOCKER_REGISTRY_PASSWORD", "DEFAULT_DOCKER_REGISTRY_USERNAME", "DIR", "ELASTICSEARCH_API_KEY", "ELASTICSEARCH_HOST", "ELASTICSEARCH_INDEX",
	"EVENTS_TTL_SECONDS", "FLUENTBIT_HOST", "FLUENTBIT_PORT", "FLUENTBIT_PROTOCOL", "FLUENTBIT_TAG_PREFIX", "GCP_LOGGING_PROJECT", "GCS_BUCKET", "GCS_LOG_BUCKET", "HOST",
	"INSTANCE_HEALTH_MIN_COLLECT_INTERVAL_SECONDS", "INSTANCE_HEALTH_TTL_SECONDS", "JOB_NETWORK_MODE", "LOGS_TTL_SECONDS", "LOG_FORMAT", "LOG_LEVEL", "LOG_QUOTA_PER_JOB_HOUR", "MAX_OFFERS_TRIED", "MAX_PROBES_PER_JOB", "MAX_PROBE_TIMEOUT",
	"METRICS_FINISHED_TTL_SECONDS", "METRICS_RUNNING_TTL_SECONDS", "PORT", "PROFILE", "S3_BUCKET", "S3_BUCKET_REGION", "S3_LOG_BUCKET", "S3_LOG_BUCKET_REGION",
	"SSHPROXY_ADDRESS", "SSHPROXY_ENFORCED", "SSH_CONNECT_TIMEOUT", "TEMPLATES_REPO", "UNREACHABLE_GRACE", "URL",
}

// Why a variable of the published server means nothing here.
const (
	noSentry   = "this server reports to no Sentry; problems are in its log"
	noOTel     = "this server exports nothing to OpenTelemetry; its metrics are at /metrics, see DSTACK_ENABLE_PROMETHEUS_METRICS"
	oneLog     = "there is one log, see DSTACK_SERVER_LOG_LEVEL"
	oneProgram = "the agent of hosts is part of this program"
	noGateways = "no backend of this build makes gateways"
	noImages   = "machines start from the images of their providers"
	oneVersion = "the version is part of this program"
)

// unusedVariables lists the variables of the published server that mean nothing here, with the reason.
var unusedVariables = []struct{ names, why string }{
	{"DSTACK_SENTRY_DSN DSTACK_SENTRY_TRACES_SAMPLE_RATE DSTACK_SENTRY_TRACES_BACKGROUND_SAMPLE_RATE DSTACK_SENTRY_PROFILES_SAMPLE_RATE", noSentry},
	{"DSTACK_SERVER_ENVIRONMENT", noSentry},
	{"DSTACK_OTEL_TRACES_ENABLED DSTACK_OTEL_LOGS_ENABLED DSTACK_OTEL_METRICS_ENABLED DSTACK_OTEL_TRACES_SAMPLE_RATE", noOTel},
	{"DSTACK_OTEL_TRACES_BACKGROUND_SAMPLE_RATE DSTACK_OTEL_METRICS_EXPORTERS", noOTel},
	{"DSTACK_SERVER_ROOT_LOG_LEVEL DSTACK_SERVER_UVICORN_LOG_LEVEL DSTACK_SQL_ECHO_ENABLED", oneLog},
	{"DSTACK_ALEMBIC_MIGRATIONS_LOCATION", "the database's schema is part of this program"},
	{"DSTACK_SERVER_EXECUTOR_MAX_WORKERS", "there are no threads to bound"},
	{"DSTACK_SERVER_RELOAD_DISABLED", "this server never loads itself again"},
	{"DSTACK_SERVER_SSH_POOL_DISABLED", "there is one connection to each host, which all share"},
	{"DSTACK_SERVER_KEEP_SHIM_TASKS", "hosts keep no tasks that are over"},
	{"DSTACK_SERVER_PROFILING_ENABLED", "see DSTACK_SERVER_PROFILE"},
	{"DSTACK_DEFAULT_CREDS_DISABLED", "no backend of this build takes default credentials"},
	{"DSTACK_ACME_SERVER DSTACK_ACME_EAB_KID DSTACK_ACME_EAB_HMAC_KEY DSTACK_DEFAULT_SERVICE_CLIENT_MAX_BODY_SIZE DSTACK_SKIP_GATEWAY_UPDATE", noGateways},
	{"DSTACK_PLUGIN_SERVICE_URI", "there are no plugins"},
	{"DSTACK_VERSION DSTACK_RELEASE", oneVersion},
	{"DSTACK_RUNNER_VERSION DSTACK_RUNNER_VERSION_URL DSTACK_RUNNER_DOWNLOAD_URL DSTACK_USE_LATEST_FROM_BRANCH", oneProgram},
	{"DSTACK_SHIM_VERSION DSTACK_SHIM_VERSION_URL DSTACK_SHIM_DOWNLOAD_URL", oneProgram},
	{"DSTACK_VM_BASE_IMAGE_VERSION DSTACK_VM_BASE_IMAGE_PREFIX", noImages},
	{"DSTACK_FORCE_BRIDGE_NETWORK", "see DSTACK_SERVER_JOB_NETWORK_MODE"},
}

// Warnings says which variables of an environment, as [os.Environ] has it, do nothing although a
// server's operator may count on them. It shows no values.
func Warnings(environ []string) []string {
	set := map[string]bool{}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		set[name] = true
	}
	var list []string
	known := map[string]bool{}
	for _, u := range unusedVariables {
		for name := range strings.FieldsSeq(u.names) {
			known[name] = true
			if set[name] {
				list = append(list, fmt.Sprintf("%s is ignored: %s", name, u.why))
			}
		}
	}
	endpoints := map[string]bool{varGCSEndpoint: true, varLoggingEndpoint: true, varHub: true}
	for _, t := range all.Types(agentbin.New()) {
		endpoints[backend.EndpointVariable(t.Name)] = true
	}
	for _, s := range collect.Sources() {
		endpoints[backend.EndpointVariable(s.Provider)] = true
	}
	for name := range set {
		short, is := strings.CutPrefix(name, serverPrefix)
		if is && !known[name] && !slices.Contains(serverVariables, short) {
			list = append(list, name+" is ignored: there is no such setting")
		}
		if strings.HasPrefix(name, backend.EndpointVariable("")) && !endpoints[name] {
			list = append(list, name+" is ignored: there is no such provider")
		}
	}
	if set[serverPrefix+"SSHPROXY_ENFORCED"] && !(set[serverPrefix+"SSHPROXY_ADDRESS"] && set["DSTACK_SSHPROXY_API_TOKEN"]) {
		list = append(list, serverPrefix+"SSHPROXY_ENFORCED is ignored: it needs DSTACK_SERVER_SSHPROXY_ADDRESS and DSTACK_SSHPROXY_API_TOKEN")
	}
	slices.Sort(list)
	return list
}
