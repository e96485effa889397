package run

import (
	"context"
	"encoding/json"
	"fmt"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/jinja"
	"dstack/internal/project"
)

// Tokenizer is what the hub of models knows of how to talk to one.
type Tokenizer struct {
	ChatTemplate string // "": none
	EOSToken     string // "": none
}

// checkModel refuses a model of format tgi to which nobody could talk.
func checkModel(m *config.Model) error {
	if m == nil || m.ChatTemplate == nil {
		return nil
	}
	return compiles(*m.ChatTemplate)
}

func compiles(template string) error {
	if _, err := jinja.Compile(template); err != nil {
		return api.Invalid("Failed to compile chat template: %v", err)
	}
	return nil
}

// model is the model of a service with what its configuration leaves open, which the hub of
// models knows; nil for none. It asks the hub, so it belongs into no transaction.
func (s *Service) model(ctx context.Context, sc project.Scope, spec api.RunSpec) (*config.Model, error) {
	sv := spec.Configuration.Service
	if sv == nil || sv.Model == nil || sv.Model.Format != "tgi" || sv.Model.ChatTemplate != nil && sv.Model.EOSToken != nil {
		if sv == nil {
			return nil, nil
		}
		return sv.Model, nil
	}
	token, err := s.hubToken(ctx, sc, sv)
	if err != nil {
		return nil, err
	}
	known, err := s.Tokenizer(ctx, sv.Model.Name, token)
	if err != nil {
		return nil, err
	}
	m := *sv.Model
	if m.EOSToken == nil {
		m.EOSToken = &known.EOSToken
	}
	if m.ChatTemplate == nil {
		if known.ChatTemplate == "" {
			return nil, api.Invalid("Failed to get tokenizer info: %s has no chat template. Set `chat_template` of the model", m.Name)
		}
		m.ChatTemplate = &known.ChatTemplate
	}
	return &m, compiles(*m.ChatTemplate)
}

// hubToken is what a service shows to the hub of models, "" for nothing.
func (s *Service) hubToken(ctx context.Context, sc project.Scope, sv *config.Service) (string, error) {
	for _, name := range []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} {
		v, ok := sv.Env[name]
		if !ok || v.Value == "" {
			continue
		}
		secrets, err := s.Secrets.Values(ctx, sc.Project.ID)
		if err != nil {
			return "", err
		}
		token, err := config.Interpolate(v.Value, map[string]map[string]string{"secrets": secrets})
		if err != nil {
			return "", api.Invalid("env.%s: Secrets interpolation error: %v", name, err)
		}
		return token, nil
	}
	return "", nil
}

// promptOf is how to talk to a run's model of format tgi, as it was found out when the run was
// submitted.
func promptOf(r Run) (template, eos string, err error) {
	m := r.Data.Spec.Configuration.Service.Model
	if m == nil || m.Format != "tgi" || r.Data.Service == nil {
		return "", "", nil
	}
	var options struct {
		OpenAI struct {
			Model struct {
				ChatTemplate string `json:"chat_template"`
				EOSToken     string `json:"eos_token"`
			} `json:"model"`
		} `json:"openai"`
	}
	if err := json.Unmarshal(r.Data.Service.Options, &options); err != nil {
		return "", "", fmt.Errorf("read the model of run %s: %w", r.ID, err)
	}
	return options.OpenAI.Model.ChatTemplate, options.OpenAI.Model.EOSToken, nil
}
