package runner

import (
	"unicode"
	"unicode/utf8"
)

// stripper turns terminal output into plain lines (host-agents 2.12): a small screen of
// rows with a cursor. Rows above the cursor are complete and can be stored.
type stripper struct {
	rows    [][]rune
	row     int
	col     int
	partial []byte // the beginning of a character or of an escape sequence
	moved   bool   // the cursor went back: rows may still change
}

// maxRow bounds a row that never ends, in characters.
const maxRow = 32 << 10

// maxRows bounds the rows that cursor movements can reach.
const maxRows = 256

// write takes output and returns the rows that are complete.
func (s *stripper) write(p []byte) []byte {
	data := append(s.partial, p...)
	s.partial = nil
	for len(data) > 0 {
		if data[0] == 0x1b {
			n, complete := s.escape(data)
			if !complete {
				s.partial = append([]byte(nil), data...)
				break
			}
			data = data[n:]
			continue
		}
		if !utf8.FullRune(data) {
			s.partial = append([]byte(nil), data...)
			break
		}
		r, size := utf8.DecodeRune(data)
		data = data[size:]
		if r == utf8.RuneError && size == 1 {
			continue
		}
		s.put(r)
	}
	if s.moved && len(s.rows) < maxRows {
		return nil // wait for quiet: the rows are being redrawn
	}
	s.moved = false
	return s.complete()
}

func (s *stripper) put(r rune) {
	switch {
	case r == '\n':
		s.row, s.col = s.row+1, 0
	case r == '\r':
		s.col = 0
	case r == '\b':
		s.col = max(0, s.col-1)
	case unicode.IsControl(r):
	default:
		s.grow()
		line := s.rows[s.row]
		for len(line) < s.col {
			line = append(line, ' ')
		}
		if s.col < len(line) {
			line[s.col] = r
		} else {
			line = append(line, r)
		}
		s.rows[s.row] = line
		if s.col++; s.col >= maxRow {
			s.row, s.col = s.row+1, 0
		}
	}
}

func (s *stripper) grow() {
	for len(s.rows) <= s.row {
		s.rows = append(s.rows, nil)
	}
}

// escape handles one sequence at the start of data. complete is false when more bytes are
// needed to know.
func (s *stripper) escape(data []byte) (n int, complete bool) {
	if len(data) == 1 {
		return 0, false
	}
	if data[1] != '[' {
		return 1, true // other escapes: the character alone is dropped
	}
	args := [2]int{}
	arg := 0
	for i := 2; i < len(data); i++ {
		c := data[i]
		switch {
		case c >= '0' && c <= '9':
			if arg < 2 && args[arg] < 1<<20 {
				args[arg] = args[arg]*10 + int(c-'0')
			}
		case c == ';':
			arg++
		case c >= 0x40 && c <= 0x7e:
			s.control(c, args)
			return i + 1, true
		case c < 0x20 || c > 0x3f:
			return i, true // not a sequence after all
		}
		if i > 64 {
			return i, true
		}
	}
	return 0, false
}

func (s *stripper) control(c byte, args [2]int) {
	n := max(1, args[0])
	switch c {
	case 'A':
		s.row = max(0, s.row-n)
		s.moved = true
	case 'B':
		s.row = min(s.row+n, maxRows)
		s.moved = true
	case 'C':
		s.col = min(s.col+n, maxRow-1)
	case 'D':
		s.col = max(0, s.col-n)
	case 'G':
		s.col = min(n-1, maxRow-1)
	case 'H', 'f':
		s.row, s.col = min(n-1, maxRows), min(max(1, args[1])-1, maxRow-1)
		s.moved = true
	case 'J':
		s.eraseDisplay(args[0])
	case 'K':
		s.eraseLine(args[0])
	}
}

func (s *stripper) eraseLine(mode int) {
	if s.row >= len(s.rows) {
		return
	}
	line := s.rows[s.row]
	switch mode {
	case 0:
		s.rows[s.row] = line[:min(s.col, len(line))]
	case 1:
		for i := range min(s.col+1, len(line)) {
			line[i] = ' '
		}
	case 2:
		s.rows[s.row] = nil
	}
}

func (s *stripper) eraseDisplay(mode int) {
	switch mode {
	case 0:
		s.eraseLine(0)
		if s.row+1 < len(s.rows) {
			s.rows = s.rows[:s.row+1]
		}
	case 1:
		for i := range min(s.row, len(s.rows)) {
			s.rows[i] = nil
		}
		s.eraseLine(1)
	case 2:
		for i := range s.rows {
			s.rows[i] = nil
		}
	}
}

// complete takes the rows above the cursor. Rows that never got a character are dropped.
func (s *stripper) complete() []byte {
	n := min(s.row, len(s.rows))
	out := s.take(n)
	s.row -= n
	if len(s.rows) == 0 {
		s.row = 0
	}
	return out
}

func (s *stripper) take(n int) []byte {
	var out []byte
	for _, line := range s.rows[:n] {
		end := len(line)
		for end > 0 && line[end-1] == ' ' {
			end--
		}
		if len(line) == 0 {
			continue
		}
		out = append(out, string(line[:end])...)
		out = append(out, '\n')
	}
	s.rows = append([][]rune(nil), s.rows[n:]...)
	return out
}

// quiet is called when nothing came for a while: redrawn rows are final now.
func (s *stripper) quiet() []byte {
	s.moved = false
	return s.complete()
}

// close returns everything that is left.
func (s *stripper) close() []byte {
	out := s.take(len(s.rows))
	s.rows, s.row, s.col = nil, 0, 0
	return out
}
