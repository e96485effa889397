package config

import (
	"strings"
	"testing"
)

const (
	taskDoc    = "type: task\ncommands: [a]\n"
	serviceDoc = "type: service\nport: 80\nimage: x\n"
	devDoc     = "type: dev-environment\n"
	fleetDoc   = "type: fleet\n"
)

// Rules that the recorded configurations do not reach, with all that is said of a document.
func TestRules(t *testing.T) {
	for _, tt := range []struct{ doc, want string }{
		{taskDoc + "resources: {cpu: 'x86:x86', memory: 8g, disk: {}, gpu: 'A100:H100'}\n",
			"3:18: task.resources.cpu: CPU spec arch conflict: x86:x86\n" +
				"3:37: task.resources.memory: Invalid memory size: 8g. Use a number of gigabytes or a unit: 512MB, 8GB, 1TB\n" +
				"3:47: task.resources.disk.size: Field required\n" +
				"3:56: task.resources.gpu: GPU spec name conflict: A100:H100"},
		{taskDoc + "resources: {cpu: '4:', memory: 64GB..32GB, shm_size: 1..2, gpu: 'nvidia:amd'}\n",
			"3:18: task.resources.cpu: CPU spec contains empty token: 4:\n" +
				"3:32: task.resources.memory: Invalid range order: 64GB..32GB\n" +
				"3:54: task.resources.shm_size: Invalid memory size: 1..2. Use a number of gigabytes or a unit: 512MB, 8GB, 1TB\n" +
				"3:65: task.resources.gpu: GPU spec vendor conflict: nvidia:amd"},
		{taskDoc + "resources: {cpu: {arch: mips, count: ..}, memory: 1..2..3, gpu: {vendor: foo, compute_capability: 7, memory: -1, count: 2..1}}\n",
			"3:25: task.resources.cpu.arch: Invalid CPU architecture: mips\n" +
				"3:38: task.resources.cpu.count: Invalid empty range: ..\n" +
				"3:51: task.resources.memory: Invalid range: 1..2..3\n" +
				"3:74: task.resources.gpu.vendor: 'foo' is not a valid AcceleratorVendor\n" +
				"3:99: task.resources.gpu.compute_capability: Invalid compute capability: 7\n" +
				"3:110: task.resources.gpu.memory: Invalid memory size: -1\n" +
				"3:121: task.resources.gpu.count: Invalid range order: 2..1"},
		{taskDoc + "resources: {gpu: [1], cpu: 1.5, disk: [1], memory: {min: 1, most: 2}}\n",
			"3:18: task.resources.gpu: Input should be a valid dictionary or instance of GPUSpec\n" +
				"3:28: task.resources.cpu: Input should be a valid dictionary or instance of CPUSpec\n" +
				"3:39: task.resources.disk: Invalid range: [1]\n" +
				"3:61: task.resources.memory.most: Extra inputs are not permitted"},
		{taskDoc + "max_duration: -1\nstop_duration: 1h30m\nidle_duration: [1]\nretry: {on_events: [], duration: -5}\n",
			"3:15: task.max_duration: Duration cannot be negative\n" +
				"4:16: task.stop_duration: Cannot parse the duration 1h30m. Use seconds or one number with a unit: 30s, 10m, 2h, 1d, 1w\n" +
				"5:16: task.idle_duration: Cannot parse the duration [1]\n" +
				"6:20: task.retry.on_events: `on_events` cannot be empty\n" +
				"6:34: task.retry.duration: retry.duration cannot be negative"},
		{taskDoc + "utilization_policy: {min_gpu_utilization: 101, time_window: 1m}\n",
			"3:43: task.utilization_policy.min_gpu_utilization: Input should be less than or equal to 100\n" +
				"3:61: task.utilization_policy.time_window: Minimum time_window is 5m"},
		{taskDoc + "utilization_policy: {min_gpu_utilization: 10, time_window: 1m}\n",
			"3:60: task.utilization_policy.time_window: Minimum time_window is 5m"},
		{taskDoc + "schedule: {cron: []}\n",
			"3:18: task.schedule.cron: At least one cron expression must be specified"},
		{taskDoc + "schedule: {cron: ['61 * * * *', '@daily', '* * * * 7', '*/60 * * * *', '0 0 30 2 *', '5-1 * * * *', '*/0 * * * *', 'x * * * *', '* * * foo *', '* * * * foo']}\n",
			"3:19: task.schedule.cron[0]: Error validating expression '61': the last value (61) is higher than the maximum value (59)\n" +
				"3:33: task.schedule.cron[1]: Wrong number of fields; got 1, expected 5\n" +
				"3:43: task.schedule.cron[2]: Error validating expression '7': the last value (7) is higher than the maximum value (6)\n" +
				"3:56: task.schedule.cron[3]: Error validating expression '*/60': the step value (60) is higher than the total range of the expression (59)\n" +
				"3:72: task.schedule.cron[4]: Cron expression \"0 0 30 2 *\" can never fire: no such day in the given months\n" +
				"3:86: task.schedule.cron[5]: The minimum value in a range must not be higher than the maximum\n" +
				"3:101: task.schedule.cron[6]: Error validating expression \"*/0\": Increment must be higher than 0\n" +
				"3:116: task.schedule.cron[7]: Unrecognized expression \"x\" for field \"minute\"\n" +
				"3:129: task.schedule.cron[8]: Invalid month name \"foo\"\n" +
				"3:144: task.schedule.cron[9]: Invalid weekday name \"foo\""},
		{taskDoc + "schedule: '0 0 * * *'\n",
			"3:11: task.schedule: Input should be a valid dictionary or instance of Schedule"},
		{taskDoc + "instances: []\n",
			"3:12: task.instances: List should have at least 1 item after validation, not 0"},
		{taskDoc + "instances: [{name: a, hostname: b}, {fleet: f}, {fleet: f, instance: -1}, '', {name: ''}]\n",
			"3:13: task.instances[0]: An instance is selected by `name`, by `hostname`, or by `fleet` and `instance`\n" +
				"3:37: task.instances[1]: An instance is selected by `name`, by `hostname`, or by `fleet` and `instance`\n" +
				"3:70: task.instances[2].instance: Input should be greater than or equal to 0\n" +
				"3:75: task.instances[3]: String should have at least 1 character\n" +
				"3:86: task.instances[4].name: String should have at least 1 character"},
		{taskDoc + "fleets: [a/b/c, {name: ''}, 1, {}, /f]\n",
			"3:10: task.fleets[0]: Invalid entity reference. Only `<name>` or `<project>/<name>` formats are allowed\n" +
				"3:32: task.fleets[3].name: Field required\n" +
				"3:36: task.fleets[4]: Invalid entity reference. Only `<name>` or `<project>/<name>` formats are allowed"},
		{taskDoc + "tags: {'a b': c, d: 1, e: 'é'}\n",
			"3:15: task.tags: Invalid tag key a b. The key must match regex '^[_\\-a-zA-Z0-9]{1,60}$'\n" +
				"3:21: task.tags.d: Input should be a valid string\n" +
				"3:27: task.tags.e: Invalid tag value é. The value must match regex '^[a-zA-Z0-9 .:/=_\\-+@]{0,256}$'"},
		{taskDoc + "backend_options: [{type: vastai, min_score: -1}, {type: aws}]\n",
			"3:45: task.backend_options[0].min_score: Input should be greater than or equal to 0\n" +
				"3:57: task.backend_options[1].type: Input should be 'vastai'"},
		{taskDoc + "backend_options: [{type: vastai}, {min_reliability: 0.5}]\n",
			"3:18: task.backend_options[1]: backend_options contains duplicate entry for backend 'vastai'"},
		{taskDoc + "backends: [aws, foo]\nspot_policy: never\ncreation_policy: new\nstartup_order: last\nstop_criteria: none\nmax_price: 0\n",
			"3:17: task.backends[1]: Input should be 'amddevcloud', 'aws', 'azure', 'cloudrift', 'crusoe', 'cudo', 'datacrunch', 'daytona', 'digitalocean', 'dstack', 'gcp', 'hotaisle', 'jarvislabs', 'kubernetes', 'lambda', 'lium', 'remote', 'nebius', 'oci', 'runpod', 'seeweb', 'tensordock', 'vastai', 'verda', 'vultr', 'slurm' or 'local'\n" +
				"4:14: task.spot_policy: Input should be 'spot', 'on-demand' or 'auto'\n" +
				"5:18: task.creation_policy: Input should be 'reuse' or 'reuse-or-create'\n" +
				"6:16: task.startup_order: Input should be 'any', 'master-first' or 'workers-first'\n" +
				"7:16: task.stop_criteria: Input should be 'all-done' or 'master-done'\n" +
				"8:12: task.max_price: Input should be greater than 0"},
		{taskDoc + "priority: 101\nuser: 'a:b:c'\nshell: zsh\npython: 3.8\n",
			"3:11: task.priority: Input should be less than or equal to 100\n" +
				"4:7: task.user: invalid user format: too many parts\n" +
				"5:8: task.shell: The value must be `sh`, `bash`, or an absolute path\n" +
				"6:9: task.python: '3.8' is not a valid PythonVersion. Use one of 3.9, 3.10, 3.11, 3.12, 3.13, 3.14, 3.15"},
		{taskDoc + "user: '-1'\nshell: ''\npython: 3\n",
			"3:7: task.user: invalid user format: negative uid -1\n" +
				"4:8: task.shell: The value must be `sh`, `bash`, or an absolute path\n" +
				"5:9: task.python: Input should be '3.9', '3.10', '3.11', '3.12', '3.13', '3.14' or '3.15'"},
		{taskDoc + "user: ':g'\nnodes: 0\n",
			"3:7: task.user: invalid user format: empty user name or id\n" +
				"4:8: task.nodes: Input should be greater than or equal to 1"},
		{taskDoc + "env: [A=1, A=2, 1B=c, 'C D']\n",
			"3:12: task.env[1]: Duplicate environment variable: A=2\n" +
				"3:17: task.env[2]: String should match pattern '^([a-zA-Z_][a-zA-Z0-9_]*)(=.*$|$)'\n" +
				"3:23: task.env[3]: String should match pattern '^([a-zA-Z_][a-zA-Z0-9_]*)(=.*$|$)'"},
		{taskDoc + "env: {A: true, B: null, C: [1], D: 2020-01-01, E: {key: F, other: 1}, F: {}}\n",
			"3:10: task.env.A: Input should be a valid string\n" +
				"3:19: task.env.B: Input should be a valid string\n" +
				"3:28: task.env.C: Input should be a valid string\n" +
				"3:36: task.env.D: Input should be a valid string\n" +
				"3:60: task.env.E.other: Extra inputs are not permitted\n" +
				"3:74: task.env.F.key: Field required"},
		{taskDoc + "ports: [0, 65536, '80:', ':80', '*:0', 'a:1', {container_port: 1, x: 2}, {}, 1.5, null]\n",
			"3:9: task.ports[0]: Input should be greater than 0\n" +
				"3:12: task.ports[1]: Input should be less than or equal to 65535\n" +
				"3:19: task.ports[2]: 80:: a port is a number, \"local:container\" or \"*:container\"\n" +
				"3:26: task.ports[3]: :80: a port is a number, \"local:container\" or \"*:container\"\n" +
				"3:33: task.ports[4]: *:0: a port lies between 1 and 65535\n" +
				"3:40: task.ports[5]: a:1: a port is a number, \"local:container\" or \"*:container\"\n" +
				"3:67: task.ports[6].x: Extra inputs are not permitted\n" +
				"3:74: task.ports[7].container_port: Field required\n" +
				"3:78: task.ports[8]: Input should be a port number, \"local:container\" or an object\n" +
				"3:83: task.ports[9]: Input should be a port number, \"local:container\" or an object"},
		{taskDoc + "volumes: ['a', 'a:b', 'a:/b:c', '/x:/..', '/x:', {name: [], path: /y}, {instance_path: x, path: /y}, {path: /z}, 5]\n",
			"3:11: task.volumes[0]: invalid mount point format: a\n" +
				"3:16: task.volumes[1]: path must be absolute: b\n" +
				"3:23: task.volumes[2]: invalid mount point format: a:/b:c\n" +
				"3:33: task.volumes[3]: .. are not allowed: /..\n" +
				"3:43: task.volumes[4]: empty path\n" +
				"3:57: task.volumes[5].name: empty list of volume names\n" +
				"3:72: task.volumes[6]: path must be absolute: x\n" +
				"3:102: task.volumes[7].name: Field required\n" +
				"3:114: task.volumes[8]: Input should be source:target or an object"},
		{taskDoc + "volumes: ['a:/data', 'b:/data/']\n",
			"3:10: task.volumes[1]: two volumes are mounted at /data"},
		{taskDoc + "files: ['a:b:c', 'C:\\x', {local_path: a}, 7, 'a://srv/share']\n",
			"3:9: task.files[0]: invalid file path mapping: a:b:c\n" +
				"3:18: task.files[1]: path must be a Unix file path: C:\\x\n" +
				"3:26: task.files[2].path: Field required\n" +
				"3:43: task.files[3]: Input should be a valid string or object\n" +
				"3:46: task.files[4]: path must be a Unix file path: a://srv/share"},
		{taskDoc + "repos: [{url: u, local_path: p}]\n",
			"3:9: task.repos[0]: `local_path` and `url` are mutually exclusive"},
		{taskDoc + "repos: [{}]\n",
			"3:9: task.repos[0]: Either `local_path` or `url` must be specified"},
		{taskDoc + "repos: ['.', '..']\n",
			"3:8: task.repos: A maximum of one repo is currently supported"},
		{taskDoc + "repos: [{url: u, path: ~bob, if_exists: maybe}]\n",
			"3:41: task.repos[0].if_exists: Input should be 'error' or 'skip'"},
		{taskDoc + "repos: ['a:b:c', 7, '']\n",
			"3:8: task.repos: A maximum of one repo is currently supported\n" +
				"3:9: task.repos[0]: Invalid repo: a:b:c\n" +
				"3:18: task.repos[1]: Input should be a valid string or an object\n" +
				"3:21: task.repos[2]: Either `local_path` or `url` must be specified"},
		{taskDoc + "registry_auth: {username: u}\nworking_dir: null\nprivileged: null\nhome_dir: null\nresources: null\nenv: null\nvolumes: null\nports: null\n",
			"3:16: task.registry_auth.password: Field required\n" +
				"5:13: task.privileged: Input should be a valid boolean\n" +
				"6:11: task.home_dir: Input should be a valid string\n" +
				"7:12: task.resources: Input should be a valid dictionary or instance of ResourcesSpec\n" +
				"8:6: task.env: Input should be a list of NAME=value or a mapping\n" +
				"9:10: task.volumes: Input should be a valid list\n" +
				"10:8: task.ports: Input should be a valid list"},
		{"type: task\nimage: x\npython: '3.12'\n",
			"3:9: task.python: `image` and `python` are mutually exclusive fields"},
		{"type: task\nimage: x\ndocker: true\n",
			"3:9: task.docker: `image` and `docker` are mutually exclusive fields"},
		{"type: task\ncommands: [a]\npython: '3.12'\ndocker: true\n",
			"4:9: task.docker: `python` and `docker` are mutually exclusive fields"},
		{"type: task\ncommands: [a]\nnvcc: true\ndocker: true\n",
			"4:9: task.docker: `nvcc` and `docker` are mutually exclusive fields"},
		{"type: task\ngroups: []\n",
			"2:9: task.groups: `groups` cannot be an empty list"},
		{"type: task\ngroups: [{commands: [a]}]\nports: [80]\n",
			"3:8: task.ports: Top-level `ports` is not allowed when `groups` is set. Specify `ports` in each node group instead."},
		{"type: task\ngroups: [{commands: [a]}]\nentrypoint: x\n",
			"3:13: task.entrypoint: Top-level `entrypoint` is not allowed when `groups` is set. Specify `commands` in each node group instead."},
		{"type: task\ngroups: [{name: A, commands: [a]}]\n",
			"2:10: task.groups[0].name: Node group name should match regex '^[a-z0-9][a-z0-9-]{0,39}$'"},
		{"type: task\ngroups: [{name: a, commands: [a]}, {name: a, commands: [b]}, {nodes: 1, commands: [c]}]\n",
			"2:9: task.groups: Duplicate node group names found: ['a']. Each node group must have a unique name."},
		{"type: task\ngroups: [{commands: [a]}, {nodes: 2}]\n",
			"2:27: task.groups[1]: Node group '1': either `commands` must be set in the group, or `image` at the task level."},
		{"type: task\ngroups: [{commands: [a], nodes: 0, image: x}]\n",
			"2:33: task.groups[0].nodes: Input should be greater than or equal to 1\n" +
				"2:36: task.groups[0].image: Extra inputs are not permitted"},
		{"type: task\ncommands: [a]\nbuild: [x]\npool_name: p\ntermination_policy: x\n",
			"3:1: task.build: Extra inputs are not permitted\n" +
				"4:1: task.pool_name: Extra inputs are not permitted\n" +
				"5:1: task.termination_policy: Extra inputs are not permitted"},
		{devDoc + "ide: emacs\n",
			"2:6: dev-environment.ide: Input should be 'vscode', 'cursor', 'windsurf' or 'zed'"},
		{devDoc + "version: '1'\n",
			"2:10: dev-environment.version: `version` requires `ide` to be set"},
		{devDoc + "ide: windsurf\nversion: '1.0'\n",
			"3:10: dev-environment.version: Invalid Windsurf version format: `1.0`. Expected format: `version@commit` (e.g., `1.106.0@8951cd3ad688e789573d7f51750d67ae4a0bea7d`)"},
		{devDoc + "entrypoint: x\n",
			"2:13: dev-environment.entrypoint: entrypoint is not supported for dev-environment"},
		{devDoc + "dstack: true\ninactivity_duration: 1h\n",
			"3:22: dev-environment: `dstack` is not supported together with `inactivity_duration`"},
		{devDoc + "inactivity_duration: -1\ninit: x\n",
			"2:22: dev-environment.inactivity_duration: Duration cannot be negative\n" +
				"3:7: dev-environment.init: Input should be a valid list"},
		{"type: service\nimage: x\n",
			"1:1: service.port: Field required"},
		{"type: service\nport: '*:80'\nimage: x\n",
			`2:7: service.port: *:80: a service's port is a number or "local:container"`},
		{"type: service\nport: 80\n",
			"1:1: service: Either `commands` or `image` must be set"},
		{serviceDoc + "replicas: 1..\n",
			"4:11: service.replicas: The maximum number of replicas is required"},
		{serviceDoc + "replicas: 1..2\n",
			"4:11: service.replicas: When you set `replicas` to a range, ensure to specify `scaling`."},
		{serviceDoc + "replicas: -1\n",
			"4:11: service.replicas: Invalid range: negative counts are not allowed"},
		{serviceDoc + "replicas: 2\nscaling: {metric: rps, target: 1}\n",
			"5:10: service.scaling: To use `scaling`, `replicas` must be set to a range."},
		{serviceDoc + "scaling: {metric: cpu, target: 0}\n",
			"4:19: service.scaling.metric: Input should be 'rps'\n" +
				"4:32: service.scaling.target: Input should be greater than 0"},
		{serviceDoc + "replicas: 0..2\nscaling: {metric: rps, target: 1, window: 10s}\n",
			"5:43: service.scaling.window: Window must be one o `30s`, `60s`, `300s`"},
		{serviceDoc + "model: {name: m}\n",
			"4:8: service.model: Unable to extract tag using discriminator 'format'"},
		{serviceDoc + "model: {name: m, format: vllm}\n",
			"4:26: service.model: Input tag 'vllm' found using 'format' does not match any of the expected tags: 'tgi', 'openai'"},
		{serviceDoc + "model: {format: openai, type: x, extra: 1}\n",
			"4:8: service.model.openai.name: Field required\n" +
				"4:31: service.model.openai.type: Input should be 'chat'\n" +
				"4:34: service.model.openai.extra: Extra inputs are not permitted"},
		{serviceDoc + "https: maybe\ngateway: a/b/c\nauth: null\nstrip_prefix: 2\n",
			"4:8: service.https: Input should be a valid boolean, unable to interpret input\n" +
				"5:10: service.gateway: Invalid entity reference. Only `<name>` or `<project>/<name>` formats are allowed\n" +
				"6:7: service.auth: Input should be a valid boolean\n" +
				"7:15: service.strip_prefix: Input should be a valid boolean, unable to interpret input"},
		{serviceDoc + "rate_limits: [{prefix: x, rps: 0}, {rps: 1, burst: -1}, {key: {type: cookie}, rps: 1}, {rps: 1, key: {type: header, header: 'a b'}}]\n",
			"4:24: service.rate_limits[0].prefix: String should match pattern '^/[^\\s\\\\{}]*$'\n" +
				"4:32: service.rate_limits[0].rps: Input should be greater than or equal to 0.016666666666666666\n" +
				"4:52: service.rate_limits[1].burst: Input should be greater than or equal to 0\n" +
				"4:70: service.rate_limits[2].key: Input tag 'cookie' found using 'type' does not match any of the expected tags: 'ip_address', 'header'\n" +
				"4:125: service.rate_limits[3].key.header.header: String should match pattern '^[a-zA-Z0-9-_]+$'"},
		{serviceDoc + "rate_limits: [{rps: 1}, {rps: 2}]\n",
			"4:14: service.rate_limits: Prefixes ['/'] are used more than once. Each rate limit should have a unique path prefix"},
		{serviceDoc + "probes: [{type: http, url: h}, {type: tcp}, {type: http, method: GET}, {type: http, timeout: 0}, {type: http, interval: 0s}, {type: http, ready_after: 0}]\n",
			"4:28: service.probes[0].url: Must start with `/`\n" +
				"4:39: service.probes[1].type: Input should be 'http'\n" +
				"4:66: service.probes[2].method: Input should be 'get', 'post', 'put', 'delete', 'patch' or 'head'\n" +
				"4:94: service.probes[3].timeout: Probe timeout cannot be shorter than 1s\n" +
				"4:121: service.probes[4].interval: Probe interval cannot be shorter than 1s\n" +
				"4:152: service.probes[5].ready_after: Input should be greater than or equal to 1"},
		{serviceDoc + "probes: [{type: http, method: get, body: x}, {type: http, headers: [{name: '', value: v}]}, {type: http, url: \"/\\x01\"}]\n",
			"4:10: service.probes[0]: Cannot set request body for the `get` method\n" +
				"4:76: service.probes[1].headers[0].name: String should have at least 1 character\n" +
				"4:111: service.probes[2].url: Cannot contain non-printable characters"},
		{serviceDoc + "probes: [{type: http}, {type: http}]\n",
			"4:9: service.probes: Probes must be unique"},
		{"type: service\nport: 80\nreplicas: 1\ngroups: [{replicas: 1, commands: [a]}]\n",
			"3:11: service: `replicas` and `groups` are mutually exclusive"},
		{"type: service\nport: 80\ngroups: []\n",
			"3:9: service.groups: `groups` cannot be an empty list"},
		{"type: service\nport: 80\ngroups: [{commands: [a]}]\n",
			"3:10: service.groups[0].replicas: Field required"},
		{"type: service\nport: 80\ngroups: [{replicas: 1, commands: [a], router: {type: x}}, {replicas: 1}]\n",
			"3:54: service.groups[0].router.type: Input should be 'smg', 'dynamo' or 'sglang'"},
		{"type: service\nport: 80\ngroups: [{replicas: 1, commands: [a], router: {}}, {replicas: 1, commands: [b], router: {}}]\n",
			"3:9: service.groups: At most one replica group may specify `router`."},
		{"type: service\nport: 80\ngroups: [{replicas: 2, commands: [a], router: {}}]\n",
			"3:9: service.groups: For now replica group with `router` must have `replicas: 1`."},
		{"type: service\nport: 80\ncommands: [x]\ngroups: [{replicas: 1, commands: [a]}]\n",
			"4:9: service.groups: Top-level `commands` is not allowed when `groups` is set. Specify `commands` in each replica group instead."},
		{"type: service\nport: 80\ngroups: [{replicas: 1, image: x, python: '3.12'}]\n",
			"3:9: service.groups: `image` and `python` are mutually exclusive within a replica group"},
		{"type: service\nport: 80\ngroups: [{replicas: 1, commands: [a], docker: true, privileged: false}]\n",
			"3:9: service.groups: `privileged: false` is incompatible with `docker: true` within a replica group (docker-in-docker requires privileged mode)"},
		{"type: service\nport: 80\npython: '3.12'\ngroups: [{replicas: 1, image: x}]\n",
			"4:9: service.groups: Service-level `python` conflicts with group-level `image` in replica group(s) ['0']. These image-source fields are mutually exclusive."},
		{fleetDoc + "nodes: {min: 2, target: 1}\n",
			"2:8: fleet.nodes: target must not be be less than min"},
		{fleetDoc + "nodes: {min: 2, max: 1}\n",
			"2:8: fleet.nodes: max must not be less than min"},
		{fleetDoc + "nodes: {min: 1, target: 3, max: 2}\nblocks: 0\n",
			"2:8: fleet.nodes: max must not be less than target\n" +
				"3:9: fleet.blocks: Input should be greater than or equal to 1"},
		{fleetDoc + "nodes: -1\n",
			"2:8: fleet.nodes: min cannot be negative"},
		{fleetDoc + "nodes: 1.5\nplacement: near\n",
			"2:8: fleet.nodes: Input should be a number, a range such as 0..4, or an object\n" +
				"3:12: fleet.placement: Input should be 'any' or 'cluster'"},
		{fleetDoc + "nodes: 1\nmax_duration: 1h\n",
			"3:1: fleet.max_duration: Extra inputs are not permitted"},
		{fleetDoc + "ssh_config: {user: u}\n",
			"2:13: fleet.ssh_config.hosts: Field required"},
		{fleetDoc + "ssh_config: {hosts: [{hostname: a, internal_ip: 8.8.8.8}, {hostname: b, internal_ip: x}, {port: 22}, true, {hostname: c, blocks: 0}], network: 8.8.8.0/24}\n",
			"2:49: fleet.ssh_config.hosts[0].internal_ip: IP address is not private\n" +
				"2:86: fleet.ssh_config.hosts[1].internal_ip: Invalid IP address\n" +
				"2:90: fleet.ssh_config.hosts[2].hostname: Field required\n" +
				"2:102: fleet.ssh_config.hosts[3]: Input should be a valid string\n" +
				"2:130: fleet.ssh_config.hosts[4].blocks: Input should be greater than or equal to 1\n" +
				"2:144: fleet.ssh_config.network: Public network is specified when private network is required"},
		{fleetDoc + "ssh_config: {hosts: [a], network: x, proxy_jump: {hostname: h}}\n",
			"2:35: fleet.ssh_config.network: Failed to parse network: x\n" +
				"2:50: fleet.ssh_config.proxy_jump.user: Field required\n" +
				"2:50: fleet.ssh_config.proxy_jump.identity_file: Field required"},
		{"type: volume\nregion: r\n",
			"1:1: volume.backend: Field required"},
		{"type: volume\nbackend: azure\n",
			"2:10: volume: Input tag 'azure' found using 'backend' does not match any of the expected tags: 'aws', 'gcp', 'runpod', 'kubernetes', 'daytona', 'lium'"},
		{"type: volume\nbackend: aws\nsize: -1\n",
			"1:1: volume.aws.region: Field required\n" +
				"3:7: volume.aws.size: Invalid memory size: -1"},
		{"type: volume\nbackend: lium\nsize: 1\n",
			"3:1: volume.lium.size: Extra inputs are not permitted"},
		{"type: gateway\nbackend: foo\n",
			"1:1: gateway.region: Field required\n" +
				"2:10: gateway.backend: Input should be 'amddevcloud', 'aws', 'azure', 'cloudrift', 'crusoe', 'cudo', 'datacrunch', 'daytona', 'digitalocean', 'dstack', 'gcp', 'hotaisle', 'jarvislabs', 'kubernetes', 'lambda', 'lium', 'remote', 'nebius', 'oci', 'runpod', 'seeweb', 'tensordock', 'vastai', 'verda', 'vultr' or 'slurm'"},
		{"type: gateway\nbackend: aws\nregion: r\nreplicas: 0\ncertificate: {type: acm}\nload_balancer: {}\ninstance_type: ''\nrouter: {}\n",
			"4:11: gateway.replicas: Input should be greater than or equal to 1\n" +
				"5:14: gateway.certificate.acm.arn: Field required\n" +
				"6:16: gateway.load_balancer.type: Field required\n" +
				"7:16: gateway.instance_type: String should have at least 1 character\n" +
				"8:1: gateway.router: Extra inputs are not permitted"},
		{"type: gateway\nbackend: aws\nregion: r\ncertificate: {type: foo}\npublic_ip: null\n",
			"4:21: gateway.certificate: Input tag 'foo' found using 'type' does not match any of the expected tags: 'lets-encrypt', 'acm', 'gcp-cm'\n" +
				"5:12: gateway.public_ip: Input should be a valid boolean"},
		{"type: preset\n",
			"1:7: presets are made by the original client only; this one does not have them"},
	} {
		_, err := Parse("f", []byte(tt.doc))
		got := ""
		if err != nil {
			got = strings.ReplaceAll(err.Error(), "f:", "")
		}
		if got != tt.want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", tt.doc, got, tt.want)
		}
	}
}

// A valid file may not mean what it seems to.
func TestWarnings(t *testing.T) {
	for _, tt := range []struct{ doc, want string }{
		{taskDoc, ""},
		{taskDoc + "ports: [10:30, '8000:80']\n", "3:9: ports[0]: YAML reads 10:30 as the number 630: quote it to keep the text"},
		{taskDoc + "user: 1000:50\n", "3:7: user: YAML reads 1000:50 as the number 60050: quote it to keep the text"},
		{taskDoc + "commands: [b]\nresources: {gpu: 1, gpu: 2}\n",
			"3:1: commands: the key is there more than once: the last one counts\n" +
				"4:21: resources.gpu: the key is there more than once: the last one counts"},
		{taskDoc + "env: {a-b: c, d: e}\n", "3:7: env.a-b: no shell can read a variable of this name"},
		{"type: task\ncommands:\n  - echo ok\n  - curl -H ${{ secrets.token }} x\nenv: ['T=${{ secrets.token }}']\nregistry_auth: {username: u, password: '${{ secrets.p }}'}\n",
			"4:5: commands[1]: secrets are put into env and registry_auth only, here the text stays as it is: put it into env and use the variable"},
		{"type: task\ncommands: ['echo $${{ secrets.token }}', 'echo ${{ run.args }}']\n", ""},
		{taskDoc + "x: &x [10:30]\n", "3:1: task.x: Extra inputs are not permitted"},
		{"type: task\ncommands: &c [1:30]\nsetup: *c\n", "2:15: commands[0]: YAML reads 1:30 as the number 90: quote it to keep the text"},
	} {
		a, err := Parse("f", []byte(tt.doc))
		if err == nil && len(a.Warnings) > 0 {
			err = &Errors{a.Warnings}
		}
		got := ""
		if err != nil {
			got = strings.ReplaceAll(err.Error(), "f:", "")
		}
		if got != tt.want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", tt.doc, got, tt.want)
		}
	}
}
