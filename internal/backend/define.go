package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
)

// Deps is what the server gives to every backend.
type Deps struct {
	// Transport is for all HTTP of the backend; see [NewTransport].
	Transport http.RoundTripper
	Log       *slog.Logger
	// Dir is a directory of the backend's own on the server's machine, which may not exist yet.
	Dir string
}

// Type is all that the rest of the program knows about a kind of backend.
type Type struct {
	Name string // "aws": in YAML, on the wire, in tables
	// Doc is the backend's page: front matter, then Markdown.
	Doc string
	// New returns a pointer to a zero config, for decoding YAML or JSON and for schemas.
	New func() any
	// Validate checks a config made by New. Its error is an *InvalidError.
	Validate func(config any) error
	// Open connects to the account that the config describes. It does not call the provider.
	Open func(ctx context.Context, config any, d Deps) (Backend, error)
}

// Define makes a Type from a page and an open function. C is the config: one struct for
// YAML, REST and storage. When *C has a method Validate() error, it is called before open.
func Define[C any](name, doc string, open func(ctx context.Context, c C, d Deps) (Backend, error)) Type {
	validate := func(config any) error {
		c, ok := config.(*C)
		if !ok {
			return fmt.Errorf("backend %s: config is a %T", name, config)
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
		Open: func(ctx context.Context, config any, d Deps) (Backend, error) {
			if err := validate(config); err != nil {
				return nil, err
			}
			b, err := open(ctx, *config.(*C), d)
			if err != nil {
				return nil, fmt.Errorf("open backend %s: %w", name, err)
			}
			return b, nil
		},
	}
}

// Decode reads a stored config of the type from JSON. Unknown fields are refused.
func (t Type) Decode(data []byte) (any, error) {
	config := t.New()
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(config); err != nil {
		return nil, &InvalidError{Msg: fmt.Sprintf("backend %s: %v", t.Name, err)}
	}
	return config, nil
}
