package backend_test

import (
	"testing"

	"dstack/internal/backend"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"quota of 3 GPUs\n\treached: ä 🙂": "quota of 3 GPUs\n\treached: ä 🙂",
		"boom \x1b[31mred\x07":            "boom  [31mred ",
		"left\u202eright":                 "left right",
		"bro\xffken":                      "bro\ufffdken",
	} {
		if got := backend.Printable(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
