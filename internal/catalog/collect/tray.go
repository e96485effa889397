package collect

import (
	"context"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
	"dstack/internal/offer"
)

// A tray collects the rows of one provider, and the names of what it leaves out.
type tray struct {
	provider, asOf string
	list           pricelist.Builder
	rows           int
	free           int // rows without a price
	left           map[string]bool
	noAccount      error // why an account told nothing
}

// add checks a row and takes it. Backend and date are the tray's.
func (t *tray) add(r pricelist.Row) error {
	t.rows++
	r.Backend, r.AsOf = t.provider, t.asOf
	r.Price = math.Round(r.Price*1e9) / 1e9 // finer is the error of a multiplication
	if r.Arch == "" {
		r.Arch = "x86"
	}
	if err := t.list.Add(r); err != nil {
		return &pricelist.RowError{File: t.provider, Row: t.rows, Err: err}
	}
	return nil
}

// addMore takes a row of a type that only an account knows of, or leaves the type out: what anybody is
// told is not refused for its sake.
func (t *tray) addMore(r pricelist.Row) {
	if t.add(r) != nil {
		t.leaveOut(r.Instance)
	}
}

// doWithout goes on without what an account was asked for, for the reason err. The end of ctx ends everything.
func (t *tray) doWithout(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	t.noAccount = err
	return nil
}

// both are the names of two lists, in order, each once.
func both(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// addIn adds a row in each of some places.
func (t *tray) addIn(r pricelist.Row, regions []string) error {
	for _, r.Region = range regions {
		if err := t.add(r); err != nil {
			return err
		}
	}
	return nil
}

// leaveOut remembers the name of an accelerator or type that is not known.
func (t *tray) leaveOut(name string) {
	if t.left == nil {
		t.left = map[string]bool{}
	}
	if len(t.left) < maxLeftOut {
		t.left[printable(name)] = true
	}
}

func (t *tray) leftOut() LeftOut {
	for _, name := range t.list.Unknown() {
		t.leaveOut(name)
	}
	names := slices.Sorted(maps.Keys(t.left))
	return LeftOut{Names: names[:min(len(names), maxNamed)], More: max(0, len(names)-maxNamed)}
}

const (
	// maxNamed bounds the names of what was left out, and maxLeftOut what is counted at all.
	maxNamed   = 100
	maxLeftOut = 10_000
)

// LeftOut are the names of what was left out, in order.
type LeftOut struct {
	Names []string
	More  int // how many there are beyond those named
}

// Len counts them all.
func (l LeftOut) Len() int { return len(l.Names) + l.More }

// printable is a name that is safe to show.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "..."
	}
	return s
}

// gpu is the accelerator that a provider calls by some name, with its memory in GiB, 0 where
// that is not said. It is false for those that are not known, which it remembers.
func (t *tray) gpu(name string, gib float64) (offer.GPU, bool) {
	a, ok := config.FindAccelerator(plainName(name))
	size := config.GPUMemoryMiB(a.Name, mib(gib))
	if gib == 0 && len(a.Memory) == 1 {
		size = a.Memory[0] << 10
	}
	if !ok || size <= 0 {
		t.leaveOut(name)
		return offer.GPU{}, false
	}
	return offer.GPU{Name: a.Name, Vendor: a.Vendor, MemoryMiB: size}, true
}

// words of product names that say nothing about the kind: who makes it, how it is built in.
var idleWord = regexp.MustCompile(`(?i)^(nvidia|amd|intel|tesla|quadro|geforce|instinct|generation|blackwell|server|workstation|edition|sxm\d*|pcie|oam|hbm\d?e?|\d+ ?gb)$`)

// plainName turns a product's name into how users write it: "NVIDIA A100-SXM4-80GB" is A100,
// "RTX A6000" is A6000, "nvidia_rtx6000_ada" is rtx6000ada.
func plainName(name string) string {
	words := strings.FieldsFunc(name, func(r rune) bool { return r == ' ' || r == '-' || r == '_' })
	words = slices.DeleteFunc(words, idleWord.MatchString)
	if len(words) > 1 && words[0] == "Q" { // Vast.ai's Quadro
		words = words[1:]
	}
	s := strings.Join(words, "")
	if strings.HasPrefix(s, "RTXA") {
		s = s[len("RTX"):]
	}
	return s
}

// tooMuch is a size in MiB that no check lets pass.
const tooMuch = math.MaxInt32 << 20

// mib turns GiB into whole MiB. What is no size becomes one that is refused.
func mib(gib float64) int {
	f := math.Round(gib * 1024)
	if math.IsNaN(f) || f < 0 || f > tooMuch {
		return tooMuch
	}
	return int(f)
}

// A number is one in JSON, also as a text, which may name a unit: 12, "0.5", "141 GB", null (0).
type number float64

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if text == "null" || text == "" {
		*n = 0
		return nil
	}
	text, _, _ = strings.Cut(strings.TrimSpace(text), " ")
	f, err := strconv.ParseFloat(text, 64)
	*n = number(f)
	return err
}

// whole is a number without what is behind the point.
func (n number) whole() int {
	if math.IsNaN(float64(n)) || math.Abs(float64(n)) > math.MaxInt32 {
		return -1 // which no check lets pass
	}
	return int(n)
}
