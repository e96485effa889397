package config

import (
	"encoding/json"
	"reflect"
	"regexp"
	"sync"
)

// RateLimit bounds the requests of one client below a path.
type RateLimit struct {
	Prefix string  `json:"prefix" cfg:"maxlen=4094"`
	Key    RateKey `json:"key"`
	RPS    float64 `json:"rps" cfg:"req,min=0.016666666666666666,max=153722867280912930"`
	Burst  int64   `json:"burst" cfg:"min=0"`
}

func (r *RateLimit) setDefaults() { r.Prefix, r.Key = "/", RateKey{Type: "ip_address"} }

var ratePatterns = sync.OnceValue(func() [2]*regexp.Regexp {
	return [2]*regexp.Regexp{regexp.MustCompile(`^/[^\s\\{}]*$`), regexp.MustCompile(`^[a-zA-Z0-9-_]+$`)}
})

func (r *RateLimit) validate(d *decoder, loc []any) {
	if d.clean(loc, "prefix") && !ratePatterns()[0].MatchString(r.Prefix) {
		d.add(nil, at(loc, "prefix"), "string_pattern_mismatch", `String should match pattern '^/[^\s\\{}]*$'`)
	}
}

// RateKey says by what clients are told apart.
type RateKey struct {
	Type   string
	Header string
}

// The objects that a key is written as.
type (
	addressKey struct {
		Type string `json:"type" cfg:"req,enum=ip_address"`
	}
	headerKey struct {
		Type   string `json:"type" cfg:"req,enum=header"`
		Header string `json:"header" cfg:"req,maxlen=500"`
	}
)

// MarshalJSON writes the fields of the key's type.
func (k RateKey) MarshalJSON() ([]byte, error) {
	if k.Type == "header" {
		return json.Marshal(map[string]string{"type": k.Type, "header": k.Header})
	}
	return json.Marshal(map[string]string{"type": k.Type})
}

func (k *RateKey) decodeNode(d *decoder, n *node, loc []any) {
	typ, ok := d.tag(n, loc, "type", "ip_address", "header")
	if !ok {
		return
	}
	k.Type, k.Header = typ, ""
	if typ == "ip_address" {
		var p addressKey
		d.structure(n, at(loc, typ), reflect.ValueOf(&p).Elem())
		return
	}
	var p headerKey
	before := len(d.problems)
	d.structure(n, at(loc, typ), reflect.ValueOf(&p).Elem())
	if len(d.problems) == before && !ratePatterns()[1].MatchString(p.Header) {
		d.add(n.get("header"), at(at(loc, typ), "header"), "string_pattern_mismatch", "String should match pattern '^[a-zA-Z0-9-_]+$'")
	}
	k.Header = p.Header
}
