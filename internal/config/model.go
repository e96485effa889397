package config

import (
	"encoding/json"
	"reflect"
)

// Model makes a service answer as a chat model. Its format says which fields count.
type Model struct {
	Type, Name, Format, Prefix string
	ChatTemplate, EOSToken     *string
}

// The objects that a model is written as.
type (
	openAIModel struct {
		Type   string `json:"type" cfg:"enum=chat"`
		Name   string `json:"name" cfg:"req"`
		Format string `json:"format" cfg:"req,enum=openai"`
		Prefix string `json:"prefix"`
	}
	tgiModel struct {
		Type         string  `json:"type" cfg:"enum=chat"`
		Name         string  `json:"name" cfg:"req"`
		Format       string  `json:"format" cfg:"req,enum=tgi"`
		ChatTemplate *string `json:"chat_template"`
		EOSToken     *string `json:"eos_token"`
	}
)

// MarshalJSON writes the fields of the model's format.
func (m Model) MarshalJSON() ([]byte, error) {
	if m.Format == "tgi" {
		return json.Marshal(tgiModel{m.Type, m.Name, m.Format, m.ChatTemplate, m.EOSToken})
	}
	return json.Marshal(openAIModel{m.Type, m.Name, m.Format, m.Prefix})
}

func (m *Model) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind != mapKind {
		if s, ok := d.exactText(n, loc); ok {
			*m = Model{Type: "chat", Name: s, Format: "openai", Prefix: "/v1"}
		}
		return
	}
	format, ok := d.tag(n, loc, "format", "tgi", "openai")
	if !ok {
		return
	}
	loc = at(loc, format)
	if format == "tgi" {
		p := tgiModel{Type: "chat"}
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		*m = Model{Type: p.Type, Name: p.Name, Format: format, ChatTemplate: p.ChatTemplate, EOSToken: p.EOSToken}
		return
	}
	p := openAIModel{Type: "chat", Prefix: "/v1"}
	d.structure(n, loc, reflect.ValueOf(&p).Elem())
	*m = Model{Type: p.Type, Name: p.Name, Format: format, Prefix: p.Prefix}
}
