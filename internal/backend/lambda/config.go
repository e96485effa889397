package lambda

import (
	"fmt"
	"strings"

	"dstack/internal/backend"
)

// Config is one Lambda account: in config.yml, over the API and as stored.
type Config struct {
	// Regions limits offers to these regions of Lambda's; absent or empty means all.
	Regions []string    `json:"regions,omitempty" cfg:"opt"`
	Creds   Credentials `json:"creds" cfg:"req"`
}

// Credentials are what Lambda knows the account by.
type Credentials struct {
	// Type is "api_key", the only kind there is, and may be left out.
	Type string `json:"type,omitempty" cfg:"opt,enum=api_key"`
	// APIKey is made on the API keys page of the Lambda Cloud dashboard.
	APIKey backend.Secret `json:"api_key" cfg:"req"`
}

// KeyVariable is the environment variable with the API key, which Lambda's other tools read too.
const KeyVariable = "LAMBDA_API_KEY"

// maxKey is the longest key that is sent, in bytes: real ones have less than a hundred.
const maxKey = 1 << 10

// Validate checks what can be checked without asking Lambda. Its error is a
// *backend.InvalidError with the path of the field.
func (c Config) Validate() error {
	key := c.Creds.APIKey.Reveal()
	switch {
	case key == "":
		return &backend.InvalidError{Path: "creds.api_key", Msg: "is empty: make a key at cloud.lambda.ai/api-keys"}
	case len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return &backend.InvalidError{Path: "creds.api_key", Msg: "is not an API key: it has spaces, line breaks or other characters that no key has"}
	}
	for i, r := range c.Regions {
		if r == "" {
			return &backend.InvalidError{Path: fmt.Sprintf("regions[%d]", i), Msg: "is empty"}
		}
	}
	return nil
}

// Variables answers what the collection of Lambda's list prices asks the environment for.
func (c Config) Variables() map[string]backend.Secret {
	return map[string]backend.Secret{KeyVariable: c.Creds.APIKey}
}
