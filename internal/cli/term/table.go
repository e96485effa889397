package term

import (
	"strings"

	"github.com/mattn/go-runewidth"
)

// expandBelow is the widest terminal on which tables that ask for it fill the whole line.
const expandBelow = 110

// shortWord is the length, in columns, up to which words are broken last of all.
const shortWord = 8

// A Column of a [Table].
type Column struct {
	Title  string
	Style  Style
	NoWrap bool // cut rather than wrapped when the terminal is narrow
	Center bool
}

// A Cell of a [Row]; its style wins over those of row and column.
type Cell struct {
	Text  string
	Style Style
}

// Text returns an unstyled cell.
func Text(s string) Cell { return Cell{Text: s} }

// A Row of a [Table]. Missing cells are empty.
type Row struct {
	Cells []Cell
	Style Style
}

// A Table is printed without borders, each cell padded by one space on both sides.
type Table struct {
	Columns []Column
	Rows    []Row
	Bare    bool // no header row
	Expand  bool // fill narrow terminals
}

// Columns makes columns that have nothing but a title.
func Columns(titles ...string) []Column {
	cols := make([]Column, len(titles))
	for i, s := range titles {
		cols[i].Title = s
	}
	return cols
}

// Add appends a row of unstyled cells.
func (tb *Table) Add(cells ...string) {
	row := Row{Cells: make([]Cell, len(cells))}
	for i, s := range cells {
		row.Cells[i].Text = s
	}
	tb.Rows = append(tb.Rows, row)
}

// Print writes tb to the result.
func (t *IO) Print(tb *Table) {
	for _, line := range t.Lines(tb) {
		t.Println(line)
	}
}

// Lines renders tb for the width of the terminal, see widths; no line has trailing spaces.
func (t *IO) Lines(tb *Table) []string {
	widths := tb.widths(t.Width(), !t.OutTTY)
	lines := make([]string, 0, len(tb.Rows)+1)
	if !tb.Bare {
		head := Row{Style: Bold, Cells: make([]Cell, len(tb.Columns))}
		for i, c := range tb.Columns {
			head.Cells[i] = Cell{Text: c.Title, Style: Bold}
		}
		lines = append(lines, t.row(tb, widths, head)...)
	}
	for _, r := range tb.Rows {
		lines = append(lines, t.row(tb, widths, r)...)
	}
	return lines
}

// widths gives the width of each column without padding. Where total is not enough, the widest columns
// are levelled down first, so that short ones stay whole. Words are broken when that is not enough, long ones first;
// but not for a reader that has no edge, such as a pipe, where whole lets the table be wider.
func (tb *Table) widths(total int, whole bool) []int {
	w, words := make([]int, len(tb.Columns)), make([]int, len(tb.Columns))
	for i, c := range tb.Columns {
		if !tb.Bare {
			w[i], words[i] = width(c.Title), longestWord(c.Title)
		}
		for _, r := range tb.Rows {
			if i >= len(r.Cells) {
				continue
			}
			for line := range strings.SplitSeq(r.Cells[i].Text, "\n") {
				w[i], words[i] = max(w[i], width(line)), max(words[i], longestWord(line))
			}
		}
		if c.NoWrap {
			words[i] = w[i]
		}
	}
	room := total - 2*len(w)
	sum := 0
	for _, n := range w {
		sum += n
	}
	switch {
	case sum > room:
		room = max(room, len(w))
		level(w, words, room)
		if whole {
			break
		}
		for i, c := range tb.Columns {
			if !c.NoWrap {
				words[i] = min(words[i], shortWord)
			}
		}
		level(w, words, room)
		level(w, nil, room)
	case tb.Expand && total <= expandBelow && sum > 0:
		stretch(w, room-sum, sum)
	}
	return w
}

// level lowers the largest numbers of w until their sum is room, but none below its floor. No floor means zero.
func level(w, floor []int, room int) {
	sum := 0
	for _, n := range w {
		sum += n
	}
	for sum > room {
		widest := -1
		for i, n := range w {
			if floor != nil && n <= floor[i] {
				continue
			}
			if widest < 0 || n >= w[widest] { // the last of equals first: names stand on the left
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		w[widest]--
		sum--
	}
}

func longestWord(s string) int {
	n := 0
	for word := range strings.FieldsSeq(s) {
		n = max(n, width(word))
	}
	return n
}

// stretch hands extra columns out in proportion to the widths.
func stretch(w []int, extra, sum int) {
	for i := range w {
		if sum == 0 {
			return
		}
		n := (w[i]*extra + sum/2) / sum
		sum -= w[i]
		extra -= n
		w[i] += n
	}
}

func (t *IO) row(tb *Table, widths []int, r Row) []string {
	cells := make([][]string, len(widths))
	height := 1
	for i := range widths {
		if i < len(r.Cells) {
			cells[i] = wrap(r.Cells[i].Text, widths[i], tb.Columns[i].NoWrap)
		}
		height = max(height, len(cells[i]))
	}
	lines := make([]string, height)
	for y := range lines {
		var b strings.Builder
		pending := 0 // spaces that are written only if text follows
		for i, w := range widths {
			s := ""
			if y < len(cells[i]) {
				s = cells[i][y]
			}
			left := 0
			if tb.Columns[i].Center {
				left = (w - width(s)) / 2
			}
			pending += 1 + left
			if s != "" {
				b.WriteString(strings.Repeat(" ", pending))
				pending = 0
				b.WriteString(t.Paint(cellStyle(tb, r, i), s))
			}
			pending += max(w-left-width(s), 0) + 1
		}
		lines[y] = b.String()
	}
	return lines
}

func cellStyle(tb *Table, r Row, i int) Style {
	style := r.Style
	if style == Plain {
		style = tb.Columns[i].Style
	}
	if r.Cells[i].Style != Plain {
		style = r.Cells[i].Style
	}
	return style
}

// width is the number of columns of s, which may have colours.
func width(s string) int {
	n := 0
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return n + runewidth.StringWidth(s)
		}
		n += runewidth.StringWidth(s[:i])
		end := strings.IndexByte(s[i:], 'm')
		if end < 0 {
			return n
		}
		s = s[i+end+1:]
	}
}

// wrap breaks s into lines of at most width columns, at spaces where there are some.
func wrap(s string, room int, cut bool) []string {
	var lines []string
	for line := range strings.SplitSeq(s, "\n") {
		switch {
		case width(line) <= room:
			lines = append(lines, strings.TrimRight(line, " "))
		case cut:
			lines = append(lines, runewidth.Truncate(line, room, "…"))
		default:
			lines = append(lines, wrapLine(line, room)...)
		}
	}
	return lines
}

func wrapLine(line string, room int) []string {
	indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
	var lines []string
	cur := indent
	for word := range strings.FieldsSeq(line) {
		sep := ""
		if strings.TrimSpace(cur) != "" {
			sep = " "
		}
		if width(cur+sep+word) <= room {
			cur += sep + word
			continue
		}
		if strings.TrimSpace(cur) != "" {
			lines = append(lines, cur)
		}
		cur = ""
		for width(word) > room {
			head := runewidth.Truncate(word, max(room, 1), "")
			if head == "" { // one character is wider than the column
				break
			}
			lines = append(lines, head)
			word = word[len(head):]
		}
		cur = word
	}
	return append(lines, cur)
}

// Facts prints a table of names and values without a header, names in bold.
func (t *IO) Facts(pairs [][2]string) {
	tb := &Table{Bare: true, Columns: []Column{{NoWrap: true, Style: Bold}, {}}}
	for _, p := range pairs {
		tb.Add(p[0], p[1])
	}
	t.Print(tb)
}
