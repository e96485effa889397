package run

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/jobspec/jobspectest"
)

func TestCheckService(t *testing.T) {
	gateways := []api.Gateway{{Name: "gw", ProjectName: "main"}, {Name: "shared", ProjectName: "other"}}
	byDefault := []api.Gateway{{Name: "gw", ProjectName: "main", Default: true}}
	for name, tt := range map[string]struct {
		yaml     string
		gateways []api.Gateway
		forbid   bool
		want     string
	}{
		"plain":                  {"", nil, false, ""},
		"gateway: false":         {"gateway: false", byDefault, false, ""},
		"gateway: true":          {"gateway: true", gateways, false, "The service requires a gateway, but there is no default gateway in the project"},
		"a gateway":              {"gateway: gw", gateways, false, "Gateway status is not running"},
		"no such gateway":        {"gateway: nosuch", gateways, false, "Gateway nosuch does not exist in project main"},
		"one of another project": {"gateway: shared", gateways, false, "Gateway shared does not exist in project main"},
		"named with it":          {"gateway: other/shared", gateways, false, "Gateway status is not running"},
		"a default gateway":      {"", byDefault, false, "Gateway status is not running"},
		"forbidden without":      {"", nil, true, "This dstack-server installation forbids services without a gateway. Please configure a gateway."},
		"https: auto":            {"https: auto", nil, false, ""},
		"https: true":            {"https: true", nil, false, ""},
		"https: false":           {"https: false", nil, false, "Setting `https: False` is not allowed without a gateway. Please configure a gateway or remove the `https` property from the service configuration"},
		"rate limits":            {"rate_limits: [{rps: 1}]", nil, false, "Rate limits are not supported when running services without a gateway. Please configure a gateway or remove `rate_limits` from the service configuration"},
		"scaling":                {"replicas: 0..2\nscaling: {metric: rps, target: 1}", nil, false, ""},
		"too many":               {"replicas: 1001", nil, false, "A service cannot have more than 1000 replicas"},
		"a model of format tgi":  {"model: {format: tgi, name: m}", nil, false, ""},
		"a chat template":        {"model: {format: tgi, name: m, chat_template: '{{ messages }}', eos_token: x}", nil, false, ""},
		"one that is none":       {"model: {format: tgi, name: m, chat_template: '{{ messages'}", nil, false, "Failed to compile chat template: line 1: a tag does not end"},
	} {
		c, err := config.Parse("x.dstack.yml", []byte("type: service\nname: svc\nport: 80\ncommands: [serve]\n"+tt.yaml))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = checkService("main", c.Run.Service, tt.gateways, tt.forbid)
		refused, _ := errors.AsType[*api.Error](err)
		if got := err; (got == nil) != (tt.want == "") || refused != nil && refused.Msg != tt.want {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestPublication(t *testing.T) {
	for name, tt := range map[string]struct {
		yaml string
		want api.ServiceSpec
	}{
		"plain": {"", api.ServiceSpec{URL: "/proxy/services/main/svc/", Options: []byte(`{}`)}},
		"model": {"model: {format: openai, name: org/m, prefix: /api/v2}", api.ServiceSpec{URL: "/proxy/services/main/svc/",
			Model:   &api.ServiceModel{Name: "org/m", BaseURL: "/proxy/services/main/svc/api/v2", Type: "chat"},
			Options: []byte(`{"openai":{"model":{"type":"chat","name":"org/m","format":"openai","prefix":"/api/v2"}}}`)}},
		"tgi": {"model: {format: tgi, name: org/m, chat_template: t, eos_token: e}", api.ServiceSpec{URL: "/proxy/services/main/svc/",
			Model:   &api.ServiceModel{Name: "org/m", BaseURL: "/proxy/models/main/", Type: "chat"},
			Options: []byte(`{"openai":{"model":{"type":"chat","name":"org/m","format":"tgi","chat_template":"t","eos_token":"e"}}}`)}},
	} {
		spec, err := jobspectest.Parse("type: service\nname: svc\nport: 80\ncommands: [serve]\n" + tt.yaml)
		if err != nil {
			t.Fatal(err)
		}
		got, err := publication("main", "svc", spec.Configuration.Service.Model)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
