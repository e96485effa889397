// Package hub asks Hugging Face's hub how to talk to a model: for its chat template and the token
// that ends a text.
//
// Test it with go test ./internal/hub; a server in memory stands for the hub.
package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/run"
)

// Endpoint is where the hub is.
const Endpoint = "https://huggingface.co"

const (
	timeout = 10 * time.Second // for all that is asked about a model
	maxFile = 8 << 20          // bytes
)

// Client asks the hub at Base, [Endpoint] for "". The zero value is ready to use.
type Client struct{ Base string }

// names are those that models have on the hub.
var names = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?$`)

// Tokenizer finds out how to talk to a model. token is the user's, "" for none. What the hub
// refuses is an [*api.Error].
func (c Client) Tokenizer(ctx context.Context, model, token string) (run.Tokenizer, error) {
	if !names.MatchString(model) || len(model) > 200 {
		return run.Tokenizer{}, unknown("%q is not the name of a model on the hub", model)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	data, err := c.file(ctx, model, "tokenizer_config.json", token)
	if errors.Is(err, errMissing) {
		return run.Tokenizer{}, unknown("the hub has no tokenizer_config.json of %s", model)
	}
	if err != nil {
		return run.Tokenizer{}, err
	}
	t, err := read(data)
	if err != nil {
		return t, unknown("tokenizer_config.json of %s: %v", model, err)
	}
	if t.ChatTemplate == "" { // newer models have it in a file of its own
		data, err := c.file(ctx, model, "chat_template.jinja", token)
		if err != nil && !errors.Is(err, errMissing) {
			return t, err
		}
		t.ChatTemplate = string(data)
	}
	return t, nil
}

func unknown(format string, args ...any) error {
	return api.Invalid("Failed to get tokenizer info: %s. Or set `chat_template` and `eos_token` of the model", fmt.Sprintf(format, args...))
}

// errMissing says that a model has no such file, or that there is no such model.
var errMissing = errors.New("no such file")

func (c Client) file(ctx context.Context, model, name, token string) ([]byte, error) {
	base := c.Base
	if base == "" {
		base = Endpoint
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/"+model+"/resolve/main/"+name, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the hub for %s of %s: %w", name, model, err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := (&http.Client{}).Do(req)
	if err != nil {
		if of, ok := errors.AsType[*url.Error](err); ok {
			err = of.Err // without the address
		}
		return nil, unknown("the hub cannot be asked for %s of %s: %v", name, model, err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return nil, api.Invalid("Private HF models are not supported")
	case http.StatusUnauthorized:
		if token == "" {
			return nil, api.Invalid("Failed to access gated model. Specify HF_TOKEN env.")
		}
		return nil, api.Invalid("Failed to access gated model. Invalid HF_TOKEN env.")
	case http.StatusNotFound:
		return nil, errMissing
	default:
		return nil, unknown("the hub answers %d for %s of %s", res.StatusCode, name, model)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxFile+1))
	switch {
	case err != nil:
		return nil, unknown("%s of %s broke off: %v", name, model, err)
	case len(data) > maxFile:
		return nil, unknown("%s of %s is larger than %d bytes", name, model, maxFile)
	}
	return data, nil
}

// read takes what matters out of tokenizer_config.json. A model may have several templates, of
// which one is the default, and a token may be an object.
func read(data []byte) (run.Tokenizer, error) {
	var file struct {
		ChatTemplate json.RawMessage `json:"chat_template"`
		EOSToken     json.RawMessage `json:"eos_token"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return run.Tokenizer{}, err
	}
	var t run.Tokenizer
	if json.Unmarshal(file.ChatTemplate, &t.ChatTemplate) != nil {
		var list []struct{ Name, Template string }
		_ = json.Unmarshal(file.ChatTemplate, &list) // anything else is no template
		for _, one := range list {
			if one.Name == "default" {
				t.ChatTemplate = one.Template
			}
		}
	}
	if json.Unmarshal(file.EOSToken, &t.EOSToken) != nil {
		var token struct{ Content string }
		_ = json.Unmarshal(file.EOSToken, &token) // anything else is no token
		t.EOSToken = token.Content
	}
	return t, nil
}
