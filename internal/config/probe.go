package config

import (
	"strings"
	"unicode"
)

// Probe checks a replica over HTTP.
type Probe struct {
	Type       string        `json:"type" cfg:"req,enum=http"`
	URL        *string       `json:"url"`
	Method     *string       `json:"method" cfg:"enum=get|post|put|delete|patch|head"`
	Headers    []ProbeHeader `json:"headers" cfg:"maxlen=16"`
	Body       *string       `json:"body" cfg:"minlen=1,maxlen=2048"`
	Timeout    *Duration     `json:"timeout"`
	Interval   *Duration     `json:"interval"`
	ReadyAfter *int          `json:"ready_after" cfg:"min=1"`
	UntilReady *bool         `json:"until_ready"`
}

// ProbeHeader is one header of a probe's request.
type ProbeHeader struct {
	Name  string `json:"name" cfg:"req,minlen=1,maxlen=256"`
	Value string `json:"value" cfg:"req,minlen=1,maxlen=2048"`
}

func (p *Probe) setDefaults() { p.Headers = []ProbeHeader{} }

func (p *Probe) validate(d *decoder, loc []any) {
	if p.URL != nil && d.clean(loc, "url") {
		switch {
		case !strings.HasPrefix(*p.URL, "/"):
			d.reject(nil, at(loc, "url"), "Must start with `/`")
		case len(*p.URL) > 2048:
			d.reject(nil, at(loc, "url"), "Cannot be longer than 2048 characters")
		case strings.ContainsFunc(*p.URL, func(r rune) bool { return !unicode.IsPrint(r) }):
			d.reject(nil, at(loc, "url"), "Cannot contain non-printable characters")
		}
	}
	if d.clean(loc, "timeout") && p.Timeout != nil && *p.Timeout < 1 {
		d.reject(nil, at(loc, "timeout"), "Probe timeout cannot be shorter than 1s")
	}
	if d.clean(loc, "interval") && p.Interval != nil && *p.Interval < 1 {
		d.reject(nil, at(loc, "interval"), "Probe interval cannot be shorter than 1s")
	}
	if d.clean(loc, "body", "method") && p.Body != nil && p.Method != nil && (*p.Method == "get" || *p.Method == "head") {
		d.reject(nil, loc, "Cannot set request body for the `%s` method", *p.Method)
	}
}
