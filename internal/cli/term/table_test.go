package term

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func lines(t *testing.T, width int, tb *Table) string {
	t.Helper()
	var out bytes.Buffer
	io := New(strings.NewReader(""), &out, &out)
	io.Columns, io.OutTTY = func() int { return width }, true
	io.Print(tb)
	return out.String()
}

// TestTablePiped: what reads a pipe has no edge at which words would have to be broken.
func TestTablePiped(t *testing.T) {
	var out bytes.Buffer
	io := New(strings.NewReader(""), &out, &out)
	io.Columns = func() int { return 20 }
	io.Print(sample())
	want := ` NAME  RESOURCES    PRICE
 svc   cpu=x86:2    $0
       mem=23.5GB
       disk=75.6GB
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func sample() *Table {
	tb := &Table{Columns: Columns("NAME", "RESOURCES", "PRICE")}
	tb.Columns[0].NoWrap = true
	tb.Add("svc", "cpu=x86:2 mem=23.5GB disk=75.6GB", "$0")
	return tb
}

func TestTable(t *testing.T) {
	for name, tt := range map[string]struct {
		width int
		want  string
	}{
		"wide": {120, ` NAME  RESOURCES                         PRICE
 svc   cpu=x86:2 mem=23.5GB disk=75.6GB  $0
`},
		"wrapped": {43, ` NAME  RESOURCES                     PRICE
 svc   cpu=x86:2 mem=23.5GB          $0
       disk=75.6GB
`},
		"words stay whole": {26, ` NAME  RESOURCES    PRICE
 svc   cpu=x86:2    $0
       mem=23.5GB
       disk=75.6GB
`},
		"very narrow": {20, ` NAM…  RESO  PRIC
            URCE  E
            S
 svc        cpu=  $0
            x86:
            2
`},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "very narrow" { // only that nothing is lost or wider than the terminal
				for line := range strings.Lines(lines(t, tt.width, sample())) {
					if n := len([]rune(strings.TrimRight(line, "\n"))); n > tt.width {
						t.Errorf("line of %d columns: %q", n, line)
					}
				}
				return
			}
			if diff := cmp.Diff(tt.want, lines(t, tt.width, sample())); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTableExpands(t *testing.T) {
	tb := sample()
	tb.Expand = true
	got := strings.Split(lines(t, 80, tb), "\n")[0]
	if !strings.HasPrefix(got, " NAME   ") || len(got) < 70 {
		t.Errorf("header at 80 columns = %q, want it spread", got)
	}
}

func TestColors(t *testing.T) {
	var out bytes.Buffer
	io := New(strings.NewReader(""), &out, &out)
	io.Color = true
	tb := &Table{Columns: Columns("A", "B")}
	tb.Rows = []Row{{Style: Dim, Cells: []Cell{{Text: "x"}, {Text: "y", Style: Error}}}}
	io.Print(tb)
	want := " \x1b[1mA\x1b[0m  \x1b[1mB\x1b[0m\n \x1b[2mx\x1b[0m  \x1b[31my\x1b[0m\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
