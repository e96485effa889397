package config

import (
	"errors"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// where is the type and the path of each problem.
func where(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	problems, ok := errors.AsType[*Errors](err)
	if !ok {
		t.Fatalf("%v is a %T", err, err)
	}
	var list []string
	for _, p := range problems.Problems {
		list = append(list, p.Type+" "+p.Path())
	}
	return list
}

// TestHalfPairs gives texts that JSON can write but UTF-8 cannot.
func TestHalfPairs(t *testing.T) {
	type document struct {
		Name string            `json:"name"`
		List []string          `json:"list"`
		Env  map[string]string `json:"env"`
		Any  any               `json:"any"`
	}
	for body, want := range map[string][]string{
		`{"name": "\ud83d\ude00 \ufffd \\ud800 � \u00e9"}`: nil,
		`{"name": "\ud800"}`:                                           {"string_unicode body.name"},
		`{"name": "\\\ud83dx\ude00"}`:                                  {"string_unicode body.name"},
		`{"name": "\uDE00\uD83D"}`:                                     {"string_unicode body.name"},
		`{"name": "\ud83d\ude00\ud83d"}`:                               {"string_unicode body.name"},
		`{"list": ["a", "\udfff"], "env": {"A": "\ud800"}}`:            {"string_unicode body.list[1]", "string_unicode body.env.A"},
		`{"env": {"\ud800": "x"}, "any": {"deep": [{"a": "\ud800"}]}}`: {"string_unicode body.env.\uFFFD", "string_unicode body.any.deep[0].a"},
		`{"\ud800": 1}`:                                                {"string_unicode body.\uFFFD"},
	} {
		var d document
		if diff := cmp.Diff(want, where(t, DecodeJSON([]byte(body), &d, "body"))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
}

func TestDecodeQuery(t *testing.T) {
	type query struct {
		ID    string `json:"id" cfg:"uuid"`
		Limit int    `json:"limit" cfg:"min=0"`
		Repo  string `json:"repo" cfg:"req"`
	}
	for text, want := range map[string]struct {
		query
		wrong []string
	}{
		"repo=a&limit=1_0":                           {query: query{Limit: 10, Repo: "a"}},
		"repo=&limit=2.0&other=%01":                  {query: query{Limit: 2}},
		"repo=a&limit=x&limit=3":                     {query: query{Limit: 3, Repo: "a"}},
		"repo=a&id=27BB4E3A4A2C4C5E8F5C000000000001": {query: query{ID: "27bb4e3a-4a2c-4c5e-8f5c-000000000001", Repo: "a"}},
		"":                         {wrong: []string{"missing query.repo"}},
		"repo=a&id=":               {wrong: []string{"uuid_parsing query.id"}},
		"repo=a&id=x&limit=-1":     {wrong: []string{"uuid_parsing query.id", "greater_than_equal query.limit"}},
		"repo=%00&limit=":          {wrong: []string{"int_parsing query.limit", "value_error query.repo"}},
		"repo=a&limit=3&limit=1e3": {wrong: []string{"int_parsing query.limit"}},
	} {
		values, err := url.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		var got query
		if diff := cmp.Diff(want.wrong, where(t, DecodeQuery(values, &got))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
		if diff := cmp.Diff(want.query, got); want.wrong == nil && diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}
