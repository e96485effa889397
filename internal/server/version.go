package server

import (
	"net/http"
	"strconv"
	"strings"

	"dstack/internal/api"
)

// checkVersion refuses clients of a later minor release (http-api 3).
func checkVersion(h http.Header, path string) error {
	values, given := h["X-Api-Version"]
	if !given || values[0] == "latest" {
		return nil
	}
	client, ok := parseVersion(values[0])
	if !ok {
		return api.BadRequest("", "Invalid version: %s", values[0])
	}
	if !strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/api/docs") || client == (release{}) {
		return nil
	}
	ours, _ := parseVersion(api.Version)
	if client[0] > ours[0] || client[0] == ours[0] && client[1] > ours[1] {
		return api.Invalid("The client/CLI version (%s) is incompatible with the server version (%s).", values[0], api.Version)
	}
	return nil
}

// parseVersion reads the release numbers of a version; suffixes do not matter.
func parseVersion(s string) (release, bool) {
	var v release
	s = strings.TrimPrefix(strings.TrimSpace(s), "v")
	parts := strings.SplitN(s, ".", 4)
	if len(parts) == 0 || parts[0] == "" {
		return v, false
	}
	for i := 0; i < len(parts) && i < 3; i++ {
		digits := strings.TrimLeft(parts[i], "0123456789")
		n, err := strconv.Atoi(parts[i][:len(parts[i])-len(digits)])
		if err != nil {
			return v, false
		}
		v[i] = n
		if digits != "" {
			return v, i > 0
		}
	}
	return v, true
}
