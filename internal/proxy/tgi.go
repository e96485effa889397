package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"dstack/internal/jinja"
	"dstack/internal/run"
)

// Services of format tgi speak the API of Text Generation Inference: a text goes to /generate or
// /generate_stream, and comes back with what follows it. What OpenAI's API has beyond that, such as
// tools, such a model does not know.

// maxGenerated bounds an answer that does not stream, in bytes: it lists the tokens of the prompt.
const maxGenerated = 64 << 20

// tgiRequest is what TGI is asked.
type tgiRequest struct {
	Inputs     string        `json:"inputs"`
	Parameters tgiParameters `json:"parameters"`
}

type tgiParameters struct {
	DoSample            bool     `json:"do_sample"`
	MaxNewTokens        *int64   `json:"max_new_tokens,omitempty"`
	Stop                []string `json:"stop"`
	Seed                *int64   `json:"seed,omitempty"`
	Temperature         *float64 `json:"temperature,omitempty"`
	TopP                *float64 `json:"top_p,omitempty"`
	BestOf              int64    `json:"best_of"`
	Details             bool     `json:"details"`
	DecoderInputDetails bool     `json:"decoder_input_details"`
}

// tgiSequence is what TGI has generated.
type tgiSequence struct {
	GeneratedText   string            `json:"generated_text"`
	FinishReason    string            `json:"finish_reason"`
	GeneratedTokens int64             `json:"generated_tokens"`
	Seed            *uint64           `json:"seed"`
	Prefill         []json.RawMessage `json:"prefill"`
	InputLength     *int64            `json:"input_length"` // of a stream, with newer versions
	BestOf          []tgiSequence     `json:"best_of_sequences"`
}

// fingerprint names what made an answer.
func (s *tgiSequence) fingerprint() string {
	if s.Seed == nil {
		return ""
	}
	return fmt.Sprintf("fp_%d", *s.Seed)
}

// tgiAnswer is an answer of /generate.
type tgiAnswer struct {
	GeneratedText string       `json:"generated_text"`
	Details       *tgiSequence `json:"details"`
}

// Answers of OpenAI's API.
type (
	completion struct {
		ID          string   `json:"id"`
		Object      string   `json:"object"`
		Created     int64    `json:"created"` // Unix seconds
		Model       string   `json:"model"`
		Fingerprint string   `json:"system_fingerprint"`
		Choices     []choice `json:"choices"`
		Usage       *usage   `json:"usage,omitempty"`
	}
	choice struct {
		Index        int       `json:"index"`
		Message      *message  `json:"message,omitempty"` // or Delta, of a stream
		Delta        *delta    `json:"delta,omitempty"`
		Logprobs     *struct{} `json:"logprobs"` // always null
		FinishReason *string   `json:"finish_reason"`
	}
	message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	delta struct {
		Role    string `json:"role,omitempty"`
		Content string `json:"content,omitempty"`
	}
	usage struct {
		PromptTokens     int64 `json:"prompt_tokens"`
		CompletionTokens int64 `json:"completion_tokens"`
		TotalTokens      int64 `json:"total_tokens"`
	}
)

// generate answers a request for a model of format tgi.
func (p *Proxy) generate(w http.ResponseWriter, r *http.Request, s run.Served, c chat) {
	talk, problems := readTalk(c.body)
	if problems != nil {
		answer(w, http.StatusUnprocessableEntity, map[string]any{"detail": problems})
		return
	}
	text, err := prompt(r, s, talk)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	ask := talk.request(text, s.EOSToken, c.Stream)
	body, err := json.Marshal(ask)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	path := "/generate"
	if c.Stream {
		path = "/generate_stream"
	}
	res, err := p.ask(r, s, path, body, c.Stream)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	defer res.Body.Close()
	out := completion{ID: newID(), Object: "chat.completion", Created: time.Now().Unix(), Model: c.Model}
	if c.Stream {
		out.Object += ".chunk"
		p.relay(w, r, res.Body, &tgiStream{out: out, stop: ask.Parameters.Stop, usage: talk.StreamOptions.IncludeUsage})
		return
	}
	got, err := readGenerated(res.Body)
	if err == nil {
		err = out.fill(got, ask.Parameters.Stop)
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	answer(w, http.StatusOK, out)
}

// newID is the name of an answer.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it cannot fail
	return hex.EncodeToString(b[:])
}

// prompt is the conversation as the model wants to read it.
func prompt(r *http.Request, s run.Served, t talk) (string, error) {
	tmpl, err := jinja.Compile(s.ChatTemplate)
	if err != nil {
		return "", &refusal{http.StatusBadRequest, "Failed to compile chat template: " + err.Error()}
	}
	messages := make([]any, len(t.Messages))
	for i, m := range t.Messages {
		messages[i] = map[string]any{"role": m.Role, "content": m.Content}
	}
	// TGI puts the token that begins a text in front of it by itself.
	text, err := tmpl.Render(r.Context(), map[string]any{"messages": messages, "add_generation_prompt": true, "bos_token": "", "eos_token": s.EOSToken})
	if _, of := errors.AsType[*jinja.Error](err); of {
		return "", &refusal{http.StatusBadRequest, "Failed to render chat template: " + err.Error()}
	}
	return text, err
}

// request is what TGI is asked for a conversation.
func (t *talk) request(text, eos string, stream bool) tgiRequest {
	q := tgiRequest{text, tgiParameters{
		DoSample: true, MaxNewTokens: t.MaxTokens, Stop: t.Stop, Seed: t.Seed, Temperature: &t.Temperature, BestOf: t.N, Details: true, DecoderInputDetails: !stream,
	}}
	if eos != "" {
		q.Parameters.Stop = append(q.Parameters.Stop, eos)
	}
	if t.TopP < 1 {
		q.Parameters.TopP = &t.TopP
	}
	if t.Temperature == 0 { // the likeliest token each time, which TGI says in other words
		q.Parameters.DoSample, q.Parameters.Temperature, q.Parameters.TopP = false, nil, nil
	}
	return q
}

func readGenerated(r io.Reader) (tgiAnswer, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxGenerated+1))
	var got tgiAnswer
	switch {
	case err != nil:
		return got, &refusal{http.StatusBadGateway, "Error requesting model: " + err.Error()}
	case len(data) > maxGenerated:
		return got, &refusal{http.StatusBadGateway, fmt.Sprintf("Invalid response from model: it is larger than %d bytes", maxGenerated)}
	}
	if err := json.Unmarshal(data, &got); err != nil {
		return got, invalidAnswer(err.Error())
	}
	if got.Details == nil {
		return got, invalidAnswer("details are missing")
	}
	return got, nil
}

func invalidAnswer(why string) error {
	return &refusal{http.StatusBadGateway, "Invalid response from model: " + why}
}

// fill puts in what TGI has generated.
func (c *completion) fill(got tgiAnswer, stop []string) error {
	first := *got.Details
	first.GeneratedText = got.GeneratedText
	c.Fingerprint = first.fingerprint()
	c.Usage = &usage{PromptTokens: int64(len(first.Prefill))}
	for i, s := range append([]tgiSequence{first}, first.BestOf...) {
		reason, err := finishReason(s.FinishReason)
		if err != nil {
			return err
		}
		c.Choices = append(c.Choices, choice{Index: i, Message: &message{"assistant", trimStop(s.GeneratedText, stop)}, FinishReason: &reason})
		c.Usage.CompletionTokens += s.GeneratedTokens
	}
	c.Usage.TotalTokens = c.Usage.PromptTokens + c.Usage.CompletionTokens
	return nil
}

// finishReason is OpenAI's word for TGI's.
func finishReason(tgi string) (string, error) {
	switch tgi {
	case "stop_sequence", "eos_token":
		return "stop", nil
	case "length":
		return "length", nil
	}
	return "", &refusal{http.StatusBadGateway, "Unknown finish reason: " + tgi}
}

// trimStop cuts what made the model stop off the end of its text.
func trimStop(text string, stop []string) string {
	for _, s := range stop {
		if s != "" && strings.HasSuffix(text, s) {
			return strings.TrimSuffix(text, s)
		}
	}
	return text
}
