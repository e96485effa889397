//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// hubToken opens the hub's gated model.
const hubToken = "hf_secret"

// modelHub stands for the hub of models: it has one model, for those with hubToken. It returns its URL.
func modelHub(t *testing.T) string {
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/org/shouter/resolve/main/tokenizer_config.json":
			w.WriteHeader(http.StatusNotFound)
		case r.Header.Get("Authorization") != "Bearer "+hubToken:
			w.WriteHeader(http.StatusUnauthorized)
		default:
			fmt.Fprint(w, `{"eos_token": {"content": "</s>"}, "chat_template": "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"}`)
		}
	}))
	t.Cleanup(hub.Close)
	return hub.URL
}

// chatAnswer is an answer of OpenAI's API, or a piece of one.
type chatAnswer struct {
	Object  string
	Model   string
	Choices []struct {
		Message, Delta *struct{ Role, Content string }
		FinishReason   string `json:"finish_reason"`
	}
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	}
}

// serviceTextGeneration talks to a model that is served by Text Generation Inference, whose template
// the server reads from the hub.
func serviceTextGeneration(t *testing.T, w *world, _ ...*machine) {
	path := w.write("tgi.dstack.yml", `type: service
name: tgi
image: static:1
entrypoint: /probe tgi=:8000
port: 8000
env:
  - HF_TOKEN=${{ secrets.hub }}
model:
  format: tgi
  name: org/shouter
`+anyResources)
	w.must("secret", "set", "hub", "wrong")
	if r := w.run("apply", "-y", "-d", "-f", path); r.Code == 0 || !strings.Contains(r.both(), "Failed to access gated model. Invalid HF_TOKEN env.") {
		t.Errorf("apply with a wrong token: exit code %d\n%s", r.Code, r.both())
	}
	w.must("secret", "set", "hub", hubToken)
	p := w.start("apply", "-y", "-f", path)
	p.waitFor("Model org/shouter is published at:")
	p.waitFor(w.url() + "/proxy/models/main/")

	const ask = `{"model":"org/shouter","messages":[{"role":"system","content":"Be loud."},{"role":"user","content":"Hi you"}]`
	const want = "[SYSTEM] BE LOUD. [USER] HI YOU [ASSISTANT]"
	var body string
	eventually(t, 60*time.Second, "the model answers", func() bool {
		var status int
		status, body = w.chat(ask + `}`)
		return status == http.StatusOK
	})
	p.waitFor(`asked "[system] Be loud. [user] Hi you [assistant]", stop ["</s>"]`)
	var whole chatAnswer
	if err := json.Unmarshal([]byte(body), &whole); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if len(whole.Choices) != 1 || whole.Choices[0].Message == nil || whole.Usage == nil {
		t.Fatalf("the answer is %s", body)
	}
	got := []string{whole.Object, whole.Model, whole.Choices[0].Message.Role, whole.Choices[0].Message.Content, whole.Choices[0].FinishReason}
	if diff := cmp.Diff([]string{"chat.completion", "org/shouter", "assistant", want, "stop"}, got); diff != "" || whole.Usage.CompletionTokens != 7 {
		t.Errorf("%s (-want +got):\n%s", body, diff)
	}

	status, body := w.chat(ask + `,"stream":true,"stream_options":{"include_usage":true}}`)
	events := strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n")
	if status != http.StatusOK || events[len(events)-1] != "data: [DONE]" {
		t.Fatalf("the stream: %d %s", status, body)
	}
	var text, reason string
	pieces := 0
	for _, e := range events[:len(events)-1] {
		var c chatAnswer
		if err := json.Unmarshal([]byte(strings.TrimPrefix(e, "data:")), &c); err != nil || c.Object != "chat.completion.chunk" {
			t.Fatalf("%v in %s", err, e)
		}
		for _, choice := range c.Choices {
			if choice.Delta != nil && choice.Delta.Content != "" {
				text += choice.Delta.Content
				pieces++
			}
			reason += choice.FinishReason
		}
	}
	if text != want || pieces < 5 || reason != "stop" {
		t.Errorf("the stream is %q in %d pieces, %q:\n%s", text, pieces, reason, body)
	}

	// It has that address alone, and speaks to members alone.
	if status, _, err := w.get("/proxy/models/main/models"); err != nil || status != http.StatusOK {
		t.Errorf("the models: %d %v", status, err)
	}
	if status, body := w.chat(`{"model":"org/other","messages":[]}`); status != http.StatusNotFound || body != `{"detail":"Model org/other not found in project main"}` {
		t.Errorf("another model: %d %s", status, body)
	}
	w.must("stop", "-x", "-y", "tgi")
	p.wait()
}
