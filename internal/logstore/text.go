package logstore

import (
	"unicode/utf8"
)

// Escapes are the private characters that stand for single bytes which a service of text would
// refuse or replace.
const (
	firstEscape = '\uf700' // byte 0
	lastEscape  = '\uf7ff' // byte 255
)

// MaxTextGrowth bounds how much longer [Text] is than its bytes.
const MaxTextGrowth = 3

// Text makes valid UTF-8 without NUL of any bytes: text stays as it is, and what is none becomes
// private characters, one per byte. [Bytes] gives the same bytes back.
func Text(b []byte) string {
	if plain(b) {
		return string(b)
	}
	out := make([]byte, 0, len(b)+16)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if escaped(r, n) {
			for _, c := range b[:n] {
				out = utf8.AppendRune(out, firstEscape+rune(c))
			}
		} else {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return string(out)
}

func plain(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if escaped(r, n) {
			return false
		}
		b = b[n:]
	}
	return true
}

// escaped says whether a character of n bytes cannot stay: escapes themselves are escaped too.
func escaped(r rune, n int) bool {
	return r == 0 || r == utf8.RuneError && n == 1 || firstEscape <= r && r <= lastEscape
}

// Bytes is the inverse of [Text].
func Bytes(text string) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range text {
		if firstEscape <= r && r <= lastEscape {
			out = append(out, byte(r-firstEscape))
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}
