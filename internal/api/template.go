package api

import "encoding/json"

// UITemplate is a configuration that people fill in and run from the web interface.
type UITemplate struct {
	Type          string                `json:"type" cfg:"req,enum=template"`
	Name          string                `json:"name" cfg:"req"`
	Title         string                `json:"title" cfg:"req"`
	Description   *string               `json:"description"`
	Parameters    []UITemplateParameter `json:"parameters" cfg:"maxlen=100"`
	Configuration map[string]any        `json:"configuration" cfg:"req"`
}

// UITemplateParameter is something that people fill in; the last three are of "env" alone.
type UITemplateParameter struct {
	Type  string  `json:"type" cfg:"req,enum=name|ide|resources|python_or_docker|repo|working_dir|env"`
	Title *string `json:"title"`
	Name  *string `json:"name"`
	Value *string `json:"value"`
}

// MarshalJSON writes the fields of the parameter's type.
func (p UITemplateParameter) MarshalJSON() ([]byte, error) {
	if p.Type != "env" {
		return json.Marshal(map[string]string{"type": p.Type})
	}
	type plain UITemplateParameter
	return json.Marshal(plain(p))
}
