package jobspec

import (
	"cmp"

	"dstack/internal/agentapi"
	"dstack/internal/config"
)

// Images are the container images that an installation uses; zero fields are the published ones.
type Images struct {
	Base    string // for runs that name no image, without a tag
	Version string // of Base
	Ubuntu  string // of Base: the release that it is built on
	DinD    string // for runs with docker: true
	// Registry is where images are that name none: host[:port][/path], "" is Docker Hub. Login
	// is for what comes from there, unless a run brings its own.
	Registry string
	Login    *agentapi.RegistryAuth
}

// of is the image of a run (configurations 5.7).
func (im Images) of(c *config.RunCommon) string {
	switch {
	case isTrue(c.Docker):
		return cmp.Or(im.DinD, "dstackai/dind")
	case c.Image != nil:
		return *c.Image
	}
	kind := "base"
	if isTrue(c.NVCC) {
		kind = "devel"
	}
	return cmp.Or(im.Base, "dstackai/base") + ":" + cmp.Or(im.Version, "0.15") + "-" + kind + "-ubuntu" + cmp.Or(im.Ubuntu, "24.04")
}

// Locate is what a host pulls for an image, and with which login; own is the run's, nil for none.
func (im Images) Locate(image string, own *agentapi.RegistryAuth) (string, *agentapi.RegistryAuth) {
	ref, moved := config.InRegistry(image, im.Registry)
	if moved && own == nil {
		return ref, im.Login
	}
	return ref, own
}
