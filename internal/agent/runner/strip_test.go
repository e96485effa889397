package runner

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestStripper(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"blank lines and tabs vanish", "a\r\n\r\nb\tc\r\n", "a\nbc\n"},
		{"a progress bar", "10%\r50%\r100%\r\n", "100%\n"},
		{"a title", "\x1b]0;title\aprompt$ \n", "]0;titleprompt$\n"},
		{"colours", "\x1b[31mRed\x1b[0m\r\n", "Red\n"},
		{"a row above is redrawn", "a\nb\x1b[1A\x1b[2Kzz\n\nc\n", " zz\nb\nc\n"},
		{"backspace", "abc\b\bX\n", "aXc\n"},
		{"erase to the end", "abcdef\r\x1b[3C\x1b[K\n", "abc\n"},
		{"trailing blanks", "a   \nb", "a\nb\n"},
		{"invalid UTF-8", "a\xffb\xc3\n", "ab\n"},
		{"wide characters", "héllo 世界\n", "héllo 世界\n"},
		{"clear the screen", "old\n\x1b[2J\x1b[Hnew\n", "new\n"},
		{"an unknown sequence", "a\x1b[?25lb\x1b[999zc\n", "abc\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s stripper
			got := string(s.write([]byte(c.in))) + string(s.quiet()) + string(s.close())
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if strings.Contains(c.in, "\x1b[1A") || strings.Contains(c.in, "\x1b[2J") {
				return // rows that are complete are stored at once: only what comes together is redrawn
			}
			// It does not matter where the terminal's reads cut the bytes.
			var one stripper
			var b strings.Builder
			for i := range len(c.in) {
				b.Write(one.write([]byte{c.in[i]}))
			}
			b.Write(one.quiet())
			b.Write(one.close())
			if b.String() != c.want {
				t.Errorf("byte by byte: %q, want %q", b.String(), c.want)
			}
		})
	}
}

// Drawing that never rests does not pile up.
func TestStripperIsBounded(t *testing.T) {
	var s stripper
	for range 10_000 {
		s.write([]byte("x\n\ny\x1b[1A"))
	}
	if len(s.rows) > 2*maxRows {
		t.Errorf("%d rows are kept", len(s.rows))
	}
	s = stripper{}
	got := s.write(bytes.Repeat([]byte("a"), 3*maxRow))
	if len(got) < 2*maxRow {
		t.Errorf("of an endless row %d bytes were stored", len(got))
	}
}

func FuzzStripper(f *testing.F) {
	f.Add([]byte("a\x1b[10;20Hb\x1b[2J\r\n\b\x1b["), 3)
	f.Add([]byte("\x1b[999999999999999999A\x1b[;;;;;m"), 1)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		var s stripper
		if cut < 0 || cut > len(data) {
			cut = len(data)
		}
		out := append(s.write(data[:cut]), s.write(data[cut:])...)
		out = append(append(out, s.quiet()...), s.close()...)
		if !utf8.Valid(out) || bytes.ContainsAny(out, "\x00\x1b\r\b") {
			t.Fatalf("%q", out)
		}
		if len(s.rows) != 0 {
			t.Fatal("rows are left after close")
		}
	})
}
