package jobspec

import (
	"encoding/json"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
)

// Defaults of probes (lifecycle 15.4), times in seconds.
const (
	probeTimeout      = 10
	modelProbeTimeout = 30
	probeInterval     = 15
)

// probeSpecs are the probes of a service with all that its configuration leaves open.
func probeSpecs(sv *config.Service) []api.ProbeSpec {
	if sv.Probes == nil && sv.Model != nil && sv.Model.Format == "openai" {
		return []api.ProbeSpec{modelProbe(sv.Model)}
	}
	specs := make([]api.ProbeSpec, len(sv.Probes))
	for i, p := range sv.Probes {
		specs[i] = api.ProbeSpec{
			Type: p.Type, URL: or(p.URL, "/"), Method: or(p.Method, "get"), Headers: p.Headers, Body: p.Body, Timeout: int(or(p.Timeout, probeTimeout)),
			Interval: int(or(p.Interval, probeInterval)), ReadyAfter: or(p.ReadyAfter, 1), UntilReady: or(p.UntilReady, false),
		}
	}
	return specs
}

// modelProbe asks a chat model for one token.
func modelProbe(m *config.Model) api.ProbeSpec {
	data, _ := json.Marshal(struct { // texts and numbers, which cannot fail
		Model     string              `json:"model"`
		Messages  []map[string]string `json:"messages"`
		MaxTokens int                 `json:"max_tokens"`
	}{m.Name, []map[string]string{{"role": "user", "content": "hi"}}, 1})
	body := string(data)
	return api.ProbeSpec{
		Type: "http", URL: strings.TrimSuffix(m.Prefix, "/") + "/chat/completions", Method: "post", Headers: []config.ProbeHeader{{Name: "Content-Type", Value: "application/json"}},
		Body: &body, Timeout: modelProbeTimeout, Interval: probeInterval, ReadyAfter: 1,
	}
}

func or[T any](v *T, def T) T {
	if v == nil {
		return def
	}
	return *v
}
