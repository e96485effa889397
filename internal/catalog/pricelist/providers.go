package pricelist

import (
	"slices"
	"strings"
)

// Providers are those that a list can have prices of, by name: backends, but for Seeweb, whose
// prices are known and which no backend is for.
func Providers() []string {
	return []string{
		"amddevcloud", "aws", "azure", "cloudrift", "crusoe", "digitalocean", "gcp", "hotaisle", "jarvislabs", "lambda", "nebius", "oci",
		"runpod", "seeweb", "vastai", "verda", "vultr",
	}
}

// FindProvider is the provider of a name in any case, also of one that it had before or has in
// published catalogs.
func FindProvider(name string) (provider string, ok bool) {
	name = strings.ToLower(name)
	if ours, renamed := map[string]string{"lambdalabs": "lambda", "datacrunch": "verda"}[name]; renamed {
		name = ours
	}
	return name, slices.Contains(Providers(), name)
}
