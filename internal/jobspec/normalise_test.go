package jobspec

import (
	"testing"

	"dstack/internal/jobspec/jobspectest"
)

func TestLimits(t *testing.T) {
	const service = "type: service\nport: 80\nimage: a\ncommands: [b]\nprobes:\n"
	const probe, another = "- {type: http, timeout: 20}\n", "- {type: http, url: /b, timeout: 20}\n"
	for name, tt := range map[string]struct {
		limits     Limits
		yaml, want string
	}{
		"as many probes as allowed": {Limits{Probes: 2}, service + probe + another, ""},
		"one more":                  {Limits{Probes: 1}, service + probe + another, "Cannot configure more than 1 probes"},
		"a long timeout":            {Limits{ProbeTimeout: 19}, service + probe, "Probe timeout cannot be longer than 19s"},
		"longer is allowed":         {Limits{ProbeTimeout: 900}, service + "- {type: http, timeout: 900}\n", ""},
		"a long window": {Limits{Window: 600}, "type: task\nimage: a\ncommands: [b]\nutilization_policy: {min_gpu_utilization: 1, time_window: 11m}",
			"Maximum utilization_policy.time_window is 600s"},
		"a longer window is allowed": {Limits{Window: 7200}, "type: task\nimage: a\ncommands: [b]\nutilization_policy: {min_gpu_utilization: 1, time_window: 2h}", ""},
	} {
		spec, err := jobspectest.Parse(tt.yaml)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := ""
		if err := tt.limits.Normalise(&spec, "ssh-ed25519 AAAA"); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
