package backend

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
)

// EndpointVariable is the environment variable that replaces the base URL of a backend's
// API: DSTACK_ENDPOINT_LAMBDA.
func EndpointVariable(name string) string { return "DSTACK_ENDPOINT_" + strings.ToUpper(name) }

// Endpoint is the base URL that the environment sets for the API of t, without a trailing
// slash, "" when it sets none. Ours goes before the provider's own variable. Projects cannot
// set it: their administrators could send the credentials of others elsewhere.
func (t Type) Endpoint(env func(string) string) (string, error) {
	name := EndpointVariable(t.Name)
	text := env(name)
	if text == "" && t.EndpointEnv != "" {
		name, text = t.EndpointEnv, env(t.EndpointEnv)
	}
	if text == "" {
		return "", nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsFunc(text, unicode.IsSpace) || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("%s is not a base URL: write one like http://127.0.0.1:8080", name)
	}
	return strings.TrimRight(text, "/"), nil
}
