package config

import (
	"fmt"
	"strings"
)

// Image is a reference to a container image, taken apart.
type Image struct {
	Registry string // host[:port], "" for the default one
	Repo     string // "library/ubuntu" for "ubuntu"
	Tag      string // "latest" when absent
	Digest   string // "" when absent
}

// InRegistry puts a reference that names no registry into the one given, as host[:port][/path].
// It says whether it did; "" changes nothing.
func InRegistry(ref, registry string) (string, bool) {
	img, err := ParseImage(ref)
	if err != nil || img.Registry != "" || registry == "" {
		return ref, false
	}
	return strings.TrimSuffix(registry, "/") + "/" + ref, true
}

// ParseImage reads [registry/]name[:tag][@digest]. It refuses references without a name,
// and those that end where a tag or a digest should follow.
func ParseImage(s string) (Image, error) {
	img := Image{Tag: "latest"}
	bad := fmt.Errorf("Invalid image: %s. Use [registry/]name[:tag][@digest]", s)
	name := s
	if i := strings.LastIndexByte(name, '@'); i > strings.LastIndexByte(name, '/') {
		if name, img.Digest = name[:i], name[i+1:]; img.Digest == "" {
			return Image{}, bad
		}
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, img.Tag = name[:i], name[i+1:]
	}
	img.Repo = name
	first, rest, parts := strings.Cut(name, "/")
	switch {
	case !parts:
		img.Repo = "library/" + name
	case strings.ContainsAny(first, ".:") || first == "localhost":
		img.Registry, img.Repo = first, rest
	}
	if name == "" || img.Repo == "" || img.Tag == "" {
		return Image{}, bad
	}
	return img, nil
}
