package logstore

import (
	"bytes"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"plain\ttext\r\n":         "plain\ttext\r\n",
		"grüße \u4e16 \U0001f600": "grüße \u4e16 \U0001f600",
		"\ufffd is a character":   "\ufffd is a character",
		"a\x00b":                  "a\uf700b",
		"\xff\xc3":                "\uf7ff\uf7c3",
		"half \xe2\x82":           "half \uf7e2\uf782",
		"\uf7ff":                  "\uf7ef\uf79f\uf7bf", // an escape is escaped
	} {
		if got := Text([]byte(in)); got != want {
			t.Errorf("Text(%q) = %+q, want %+q", in, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add([]byte("a\x00\xff\xe2\x82 \uf7ff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text := Text(b)
		if !utf8.ValidString(text) || bytes.Contains([]byte(text), []byte{0}) {
			t.Errorf("Text(%q) = %q is no text", b, text)
		}
		if len(text) > MaxTextGrowth*len(b) {
			t.Errorf("Text(%q) has %d bytes of %d", b, len(text), len(b))
		}
		if got := Bytes(text); !bytes.Equal(got, b) {
			t.Errorf("Bytes(Text(%q)) = %q", b, got)
		}
	})
}
