package jobspec

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
	"dstack/internal/config"
)

func TestImages(t *testing.T) {
	yes, image := true, "debian"
	own := Images{Base: "example.com/base", Version: "2", Ubuntu: "26.04", DinD: "example.com/dind"}
	for name, tt := range map[string]struct {
		images Images
		run    config.RunCommon
		want   string
	}{
		"the published one":        {Images{}, config.RunCommon{}, "dstackai/base:0.15-base-ubuntu24.04"},
		"with a compiler":          {Images{}, config.RunCommon{NVCC: &yes}, "dstackai/base:0.15-devel-ubuntu24.04"},
		"Docker in Docker":         {Images{}, config.RunCommon{Docker: &yes}, "dstackai/dind"},
		"an own base":              {own, config.RunCommon{}, "example.com/base:2-base-ubuntu26.04"},
		"an own one with compiler": {own, config.RunCommon{NVCC: &yes}, "example.com/base:2-devel-ubuntu26.04"},
		"an own Docker in Docker":  {own, config.RunCommon{Docker: &yes}, "example.com/dind"},
		"the run's":                {own, config.RunCommon{Image: &image}, "debian"},
	} {
		if got := tt.images.of(&tt.run); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestLocateImage(t *testing.T) {
	login, ours := &agentapi.RegistryAuth{Username: "server"}, &agentapi.RegistryAuth{Username: "run"}
	mirror := Images{Registry: "example.com/mirror", Login: login}
	type place struct {
		Image string
		Login *agentapi.RegistryAuth
	}
	for name, tt := range map[string]struct {
		images Images
		image  string
		own    *agentapi.RegistryAuth
		want   place
	}{
		"no default registry":   {Images{Login: login}, "debian", nil, place{"debian", nil}},
		"moved":                 {mirror, "debian:12", nil, place{"example.com/mirror/debian:12", login}},
		"moved, by digest":      {mirror, "org/app@sha256:ab", nil, place{"example.com/mirror/org/app@sha256:ab", login}},
		"with the run's login":  {mirror, "debian", ours, place{"example.com/mirror/debian", ours}},
		"elsewhere":             {mirror, "ghcr.io/org/app", nil, place{"ghcr.io/org/app", nil}},
		"elsewhere, with login": {mirror, "localhost/app", ours, place{"localhost/app", ours}},
		"no login":              {Images{Registry: "example.com/"}, "debian", nil, place{"example.com/debian", nil}},
	} {
		image, auth := tt.images.Locate(tt.image, tt.own)
		if diff := cmp.Diff(tt.want, place{image, auth}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
