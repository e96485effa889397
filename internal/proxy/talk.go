package proxy

import (
	"encoding/json"
	"strings"
)

// talk is what a model of format tgi is asked: of OpenAI's request, the fields that it knows.
type talk struct {
	Messages      []message
	MaxTokens     *int64
	N             int64
	Seed          *int64
	Stop          []string
	Temperature   float64
	TopP          float64
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	}
}

// maxChoices bounds how many answers a request may ask for.
const maxChoices = 128

// readTalk reads a request, and says what is wrong with its fields.
func readTalk(data []byte) (talk, []problem) {
	t := talk{N: 1, Temperature: 1, TopP: 1}
	fields := map[string]json.RawMessage{}
	var problems []problem
	reject := func(kind, msg string, input any, loc ...any) {
		problems = append(problems, problem{kind, append([]any{"body"}, loc...), msg, input})
	}
	if json.Unmarshal(data, &fields) != nil {
		reject("json_invalid", "JSON decode error", map[string]any{}, 0)
		return t, problems
	}
	read := func(name, kind, msg string, to any) bool {
		raw, there := fields[name]
		if !there || string(raw) == "null" {
			return false
		}
		if json.Unmarshal(raw, to) != nil {
			reject(kind, msg, raw, name)
			return false
		}
		return true
	}
	const number, whole = "Input should be a valid number", "Input should be a valid integer"
	read("max_tokens", "int_type", whole, &t.MaxTokens)
	read("max_completion_tokens", "int_type", whole, &t.MaxTokens) // its name since
	read("seed", "int_type", whole, &t.Seed)
	read("stream_options", "dict_type", "Input should be a valid dictionary", &t.StreamOptions)
	if read("n", "int_type", whole, &t.N) && (t.N < 1 || t.N > maxChoices) {
		reject("value_error", "Input should be between 1 and 128", t.N, "n")
	}
	if read("temperature", "float_type", number, &t.Temperature) && t.Temperature < 0 {
		reject("greater_than_equal", "Input should be greater than or equal to 0", t.Temperature, "temperature")
	}
	read("top_p", "float_type", number, &t.TopP)
	if one := ""; json.Unmarshal(fields["stop"], &one) == nil {
		if one != "" {
			t.Stop = []string{one}
		}
	} else {
		read("stop", "list_type", "Input should be a string or a list of strings", &t.Stop)
	}
	var messages []json.RawMessage
	_ = json.Unmarshal(fields["messages"], &messages) // readChat has said that they are a list
	for i, raw := range messages {
		m, field, msg := readMessage(raw)
		switch {
		case msg != "" && field == "":
			reject("model_attributes_type", msg, raw, "messages", i)
		case msg != "":
			reject("string_type", msg, raw, "messages", i, field)
		}
		t.Messages = append(t.Messages, m)
	}
	return t, problems
}

// readMessage reads a message, and says what is wrong with which of its fields.
func readMessage(raw json.RawMessage) (m message, field, msg string) {
	var in struct {
		Role    *string         `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	switch {
	case json.Unmarshal(raw, &in) != nil:
		return m, "", "Input should be a message with role and content"
	case in.Role == nil:
		return m, "role", "Field required"
	}
	m.Role = *in.Role
	if len(in.Content) > 0 && json.Unmarshal(in.Content, &m.Content) == nil && string(in.Content) != "null" {
		return m, "", ""
	}
	var parts []struct{ Type, Text string }
	if string(in.Content) == "null" || json.Unmarshal(in.Content, &parts) != nil {
		return m, "content", "Input should be a text, or a list of texts"
	}
	var texts []string
	for _, p := range parts {
		if p.Type != "text" {
			return m, "content", "This model reads texts only"
		}
		texts = append(texts, p.Text)
	}
	m.Content = strings.Join(texts, "\n")
	return m, "", ""
}
