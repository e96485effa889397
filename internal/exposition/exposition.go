// Package exposition reads the text in which exporters of DCGM on hosts give their metrics, and
// merges that of many hosts into what one page of metrics may have.
//
// Hosts are not trusted. What they say is read strictly and is bounded; names and labels that could
// be taken for the server's own are refused; and nothing that one host says takes the metrics of
// another off the page.
package exposition

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	// prefix begins the names of all metrics of DCGM.
	prefix = "DCGM_"
	// reserved begins the names of labels that only the server gives.
	reserved = "dstack_"

	// Eight GPUs of seven instances each and all that DCGM can measure fit into these.
	maxFamilies = 512
	maxSamples  = 8192
	maxLabels   = 64
	maxValue    = 1 << 10 // of a label, in bytes
	maxHelp     = 1 << 10 // in bytes
)

// Family is the samples of one metric.
type Family = dto.MetricFamily

// Parse reads a text. It is refused as a whole when anything is wrong with it.
func Parse(text []byte) ([]*Family, error) {
	if n := bytes.Count(text, []byte("\n")); n > 3*maxSamples {
		return nil, fmt.Errorf("there are %d lines", n)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	byName, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if len(byName) > maxFamilies {
		return nil, fmt.Errorf("there are %d metrics", len(byName))
	}
	families := make([]*Family, 0, len(byName))
	samples := 0
	for _, f := range byName {
		if err := check(f); err != nil {
			return nil, fmt.Errorf("%.100s: %w", f.GetName(), err)
		}
		samples += len(f.Metric)
		families = append(families, f)
	}
	if samples > maxSamples {
		return nil, fmt.Errorf("there are %d samples", samples)
	}
	slices.SortFunc(families, byNames)
	return families, nil
}

func byNames(a, b *Family) int { return cmp.Compare(a.GetName(), b.GetName()) }

// check says what is wrong with the samples of a metric, and sorts their labels.
func check(f *Family) error {
	switch {
	case !strings.HasPrefix(f.GetName(), prefix):
		return errors.New("it is no metric of DCGM")
	case len(f.GetHelp()) > maxHelp || !utf8.ValidString(f.GetHelp()):
		return errors.New("its help is no short text")
	}
	switch f.GetType() {
	case dto.MetricType_COUNTER, dto.MetricType_GAUGE, dto.MetricType_UNTYPED:
	default:
		return fmt.Errorf("it is a %s", f.GetType())
	}
	seen := make(map[string]bool, len(f.Metric))
	var key []byte // what is different for different labels: no valid text has the byte 0xFF
	for _, m := range f.Metric {
		if len(m.Label) > maxLabels {
			return fmt.Errorf("a sample has %d labels", len(m.Label))
		}
		slices.SortFunc(m.Label, byLabelNames)
		key = key[:0]
		for i, l := range m.Label {
			if err := checkLabel(l); err != nil {
				return err
			}
			if i > 0 && m.Label[i-1].GetName() == l.GetName() {
				return fmt.Errorf("a sample has two labels %.100s", l.GetName())
			}
			key = append(append(append(append(key, l.GetName()...), 0xFF), l.GetValue()...), 0xFF)
		}
		if seen[string(key)] {
			return errors.New("two samples have the same labels")
		}
		seen[string(key)] = true
		m.TimestampMs = nil // the page's is now, whatever clock the host has
	}
	return nil
}

func byLabelNames(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) }

func checkLabel(l *dto.LabelPair) error {
	name := l.GetName()
	switch {
	case strings.HasPrefix(name, reserved), strings.HasPrefix(name, "__"):
		return fmt.Errorf("a sample has the label %.100s, which is not a host's to give", name)
	case len(name) > maxValue, len(l.GetValue()) > maxValue, !utf8.ValidString(l.GetValue()):
		return fmt.Errorf("a sample has a label %.100s that is no short text", name)
	}
	return nil
}

// Label is one that the server gives.
type Label struct{ Name, Value string }

// Page is what many hosts say. It is not safe for concurrent use.
type Page struct{ families map[string]*Family }

// Add takes over parsed families, and gives labels to their samples; no two calls may give the
// same. A metric that some call a counter and others a gauge becomes one without a type: names
// and values are the same then.
func (p *Page) Add(families []*Family, labels ...Label) {
	given := make([]*dto.LabelPair, len(labels))
	for i, l := range labels {
		value := strings.ToValidUTF8(l.Value, "\uFFFD")
		given[i] = &dto.LabelPair{Name: &l.Name, Value: &value}
	}
	if p.families == nil {
		p.families = map[string]*Family{}
	}
	for _, f := range families {
		for _, m := range f.Metric {
			m.Label = slices.Concat(m.Label, given)
			slices.SortFunc(m.Label, byLabelNames)
		}
		known := p.families[f.GetName()]
		if known == nil {
			if f.Help == nil {
				f.Help = new(string)
			}
			p.families[f.GetName()] = f
			continue
		}
		if known.GetType() != f.GetType() {
			withoutType(known)
			withoutType(f)
		}
		known.Metric = append(known.Metric, f.Metric...)
	}
}

func withoutType(f *Family) {
	f.Type = dto.MetricType_UNTYPED.Enum()
	for _, m := range f.Metric {
		switch {
		case m.Counter != nil:
			m.Untyped = &dto.Untyped{Value: m.Counter.Value}
		case m.Gauge != nil:
			m.Untyped = &dto.Untyped{Value: m.Gauge.Value}
		}
		m.Counter, m.Gauge = nil, nil
	}
}

// Families are those of the page, by name.
func (p *Page) Families() []*Family {
	list := make([]*Family, 0, len(p.families))
	for _, f := range p.families {
		list = append(list, f)
	}
	slices.SortFunc(list, byNames)
	return list
}
