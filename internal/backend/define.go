package backend

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"dstack/internal/config"
	"dstack/internal/offer"
)

// Deps is what the server gives to every backend.
type Deps struct {
	// Transport is for all HTTP of the backend; see [NewTransport].
	Transport http.RoundTripper
	Log       *slog.Logger
	// Endpoint is the base URL to call instead of the provider's own, without a trailing
	// slash; "" for that. See [Type.Endpoint].
	Endpoint string
	// Prices are for providers that do not tell an account what things cost.
	Prices Prices
	// Dir is a directory of the backend's own on the server's machine, which may not exist yet.
	Dir string
}

// Prices are the list prices that the server knows, embedded and collected since.
type Prices interface {
	// Offers are what a provider publishes, cheapest first. It calls nobody; that somebody asks
	// is why the server keeps these prices up to date.
	Offers(backend string, q offer.Query) ([]offer.Offer, error)
}

// Type is all that the rest of the program knows about a kind of backend.
type Type struct {
	Name string // "aws": in YAML, on the wire, in tables
	// Doc is the backend's page: front matter, then Markdown.
	Doc string
	// EndpointEnv is the provider's own variable for the base URL of its API, which its other
	// tools read too: "AWS_ENDPOINT_URL". "" when it has none.
	EndpointEnv string
	// New returns a pointer to a zero config, for decoding YAML or JSON and for schemas.
	New func() any
	// Validate checks a config made by New. Its error is an *InvalidError.
	Validate func(config any) error
	// Variables answers, out of a config made by New, the environment variables with credentials
	// that the collection of the provider's list prices reads (package collect): none for nil.
	Variables func(config any) map[string]Secret
	// Open connects to the account that the config describes. It does not call the provider.
	Open func(ctx context.Context, config any, d Deps) (Backend, error)
}

// Define makes a Type from a page and an open function. C is the config: one struct for
// YAML, REST and storage. When *C has a method Validate() error, it is called before open; when it
// has a method Variables() map[string]Secret, that is [Type].Variables.
func Define[C any](name, doc string, open func(ctx context.Context, c C, d Deps) (Backend, error)) Type {
	validate := func(v any) error {
		c, ok := v.(*C)
		if !ok {
			return fmt.Errorf("backend %s: config is a %T", name, v)
		}
		if v, ok := any(c).(interface{ Validate() error }); ok {
			return v.Validate()
		}
		return nil
	}
	return Type{
		Name:     name,
		Doc:      doc,
		New:      func() any { return new(C) },
		Validate: validate,
		Variables: func(c any) map[string]Secret {
			if v, ok := c.(interface{ Variables() map[string]Secret }); ok {
				return v.Variables()
			}
			return nil
		},
		Open: func(ctx context.Context, c any, d Deps) (Backend, error) {
			if err := validate(c); err != nil {
				return nil, err
			}
			b, err := open(ctx, *c.(*C), d)
			if err != nil {
				return nil, fmt.Errorf("open backend %s: %w", name, err)
			}
			return b, nil
		},
	}
}

// Decode reads a config of the type from JSON and validates it. A document of another shape
// is a *config.Errors whose paths begin with loc, a value that cannot be an *InvalidError.
func (t Type) Decode(data []byte, loc ...any) (any, error) {
	c := t.New()
	if err := config.DecodeJSON(data, c, loc...); err != nil {
		return nil, err
	}
	if err := t.Validate(c); err != nil {
		return nil, err
	}
	return c, nil
}
