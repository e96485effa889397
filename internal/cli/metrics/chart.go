package metrics

import (
	"strings"
	"time"

	"dstack/internal/cli/term"
)

var bars = [...]string{"▁", "▂", "▃", "▄", "▅", "▆", "▇"}

// A sample is a percentage at a time.
type sample struct {
	at      time.Time
	percent float64
}

// A ramp gives the colour for a percentage: that of the first limit it is below.
type ramp []struct {
	below float64
	style term.Style
}

var (
	hostRamp = ramp{{50, "38;5;68"}, {90, "38;5;39"}, {97, "38;5;166"}, {101, "38;5;160"}}
	gpuRamp  = ramp{{50, "38;5;242"}, {90, "38;5;64"}, {97, "38;5;76"}, {101, "38;5;46"}}
)

func (r ramp) style(percent float64) term.Style {
	for _, step := range r {
		if percent < step.below {
			return step.style
		}
	}
	return r[len(r)-1].style
}

// chart draws samples, oldest first, between from and to in width cells: the height is the peak of the cell, the colour
// its mean. The last cell shows the last sample. Cells before the first sample are left out.
func chart(t *term.IO, samples []sample, from, to time.Time, width int, colors ramp) string {
	if len(samples) == 0 {
		return ""
	}
	type cell struct {
		peak, sum float64
		n         int
	}
	cells := make([]cell, width)
	span := to.Sub(from)
	first := width - 1
	for _, s := range samples {
		i := width - 1
		if span > 0 {
			i = min(int(float64(width)*float64(s.at.Sub(from))/float64(span)), width-1)
		}
		if i < 0 {
			continue
		}
		first = min(first, i)
		cells[i].peak = max(cells[i].peak, s.percent)
		cells[i].sum += s.percent
		cells[i].n++
	}
	last := samples[len(samples)-1].percent
	cells[width-1] = cell{peak: last, sum: last, n: 1}
	var b strings.Builder
	prev := cells[first]
	for _, c := range cells[first:] {
		if c.n == 0 { // no sample: as the one before
			c = prev
		}
		prev = c
		b.WriteString(t.Paint(colors.style(c.sum/float64(c.n)), bar(c.peak)))
	}
	return b.String()
}

func bar(percent float64) string {
	i := int(percent / 100 * float64(len(bars)))
	return bars[max(0, min(i, len(bars)-1))]
}
