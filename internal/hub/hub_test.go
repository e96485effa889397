package hub

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"dstack/internal/api"
	"dstack/internal/run"
)

// double is a hub with a few models.
func double(t *testing.T) Client {
	t.Helper()
	files := map[string]string{
		"/org/plain/resolve/main/tokenizer_config.json":   `{"chat_template": "{{ messages }}", "eos_token": "</s>", "added": {"x": 1}}`,
		"/org/objects/resolve/main/tokenizer_config.json": `{"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}], "eos_token": {"content": "<e>", "lstrip": false}}`,
		"/org/apart/resolve/main/tokenizer_config.json":   `{"eos_token": "<e>"}`,
		"/org/apart/resolve/main/chat_template.jinja":     `apart`,
		"/gpt2/resolve/main/tokenizer_config.json":        `{"eos_token": null}`,
		"/org/odd/resolve/main/tokenizer_config.json":     `{"eos_token": 7, "chat_template": 7}`,
		"/org/broken/resolve/main/tokenizer_config.json":  `<html>`,
		"/org/large/resolve/main/tokenizer_config.json":   strings.Repeat(" ", maxFile+1),
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := files[r.URL.Path]
		switch token := r.Header.Get("Authorization"); {
		case strings.HasPrefix(r.URL.Path, "/org/gated/") && token != "Bearer good":
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasPrefix(r.URL.Path, "/org/private/"):
			w.WriteHeader(http.StatusForbidden)
		case strings.HasPrefix(r.URL.Path, "/org/ill/"):
			w.WriteHeader(http.StatusBadGateway)
		case strings.HasPrefix(r.URL.Path, "/org/gated/"):
			fmt.Fprint(w, `{"chat_template": "gated"}`)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		default:
			fmt.Fprint(w, text)
		}
	}))
	t.Cleanup(srv.Close)
	return Client{srv.URL + "/"}
}

func TestTokenizer(t *testing.T) {
	c := double(t)
	for name, tt := range map[string]struct {
		model, token string
		want         run.Tokenizer
		err          string // what it contains
	}{
		"plain":                   {"org/plain", "", run.Tokenizer{ChatTemplate: "{{ messages }}", EOSToken: "</s>"}, ""},
		"several templates":       {"org/objects", "", run.Tokenizer{ChatTemplate: "yes", EOSToken: "<e>"}, ""},
		"a file of its own":       {"org/apart", "", run.Tokenizer{ChatTemplate: "apart", EOSToken: "<e>"}, ""},
		"no template":             {"gpt2", "", run.Tokenizer{}, ""},
		"odd fields":              {"org/odd", "", run.Tokenizer{}, ""},
		"gated, with a token":     {"org/gated", "good", run.Tokenizer{ChatTemplate: "gated"}, ""},
		"gated, without":          {"org/gated", "", run.Tokenizer{}, "Failed to access gated model. Specify HF_TOKEN env."},
		"gated, with another":     {"org/gated", "bad", run.Tokenizer{}, "Failed to access gated model. Invalid HF_TOKEN env."},
		"private":                 {"org/private", "good", run.Tokenizer{}, "Private HF models are not supported"},
		"unknown":                 {"org/nosuch", "", run.Tokenizer{}, "Failed to get tokenizer info: the hub has no tokenizer_config.json of org/nosuch"},
		"the hub is ill":          {"org/ill", "", run.Tokenizer{}, "Failed to get tokenizer info: the hub answers 502"},
		"no JSON":                 {"org/broken", "", run.Tokenizer{}, "Failed to get tokenizer info: tokenizer_config.json of org/broken"},
		"too large":               {"org/large", "", run.Tokenizer{}, "is larger than"},
		"no name":                 {"a/b/c", "", run.Tokenizer{}, "is not the name of a model on the hub"},
		"a way out":               {"../secret", "", run.Tokenizer{}, "is not the name of a model on the hub"},
		"a name with a query":     {"org/x?y", "", run.Tokenizer{}, "is not the name of a model on the hub"},
		"a name that is too long": {strings.Repeat("x", 201), "", run.Tokenizer{}, "is not the name of a model on the hub"},
	} {
		got, err := c.Tokenizer(t.Context(), tt.model, tt.token)
		if tt.err != "" {
			if _, ok := err.(*api.Error); !ok || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %q", name, err, tt.err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, tt.want)
		}
	}
}

func TestHubThatIsGone(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	_, err := Client{srv.URL}.Tokenizer(t.Context(), "org/plain", "")
	if err == nil || !strings.HasPrefix(err.Error(), "Failed to get tokenizer info: the hub cannot be asked") || strings.Contains(err.Error(), "/resolve/") {
		t.Errorf("%v", err)
	}
}
