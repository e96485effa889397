package exposition

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"dstack/internal/agent/dcgm/dcgmtest"
)

const (
	first  = "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef111"
	second = "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef222"
)

// page writes a page as it is served, through the checks of the library that serves it.
func page(t *testing.T, p *Page) string {
	t.Helper()
	families, err := prometheus.Gatherers{prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return p.Families(), nil })}.Gather()
	if err != nil {
		t.Errorf("the page breaks: %v", err)
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Errorf("the page breaks: %v", err)
		}
	}
	return b.String()
}

func parse(t *testing.T, text string) []*Family {
	t.Helper()
	families, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// Samples keep their names, labels and values, and get those of the job.
func TestPage(t *testing.T) {
	p := &Page{}
	p.Add(parse(t, dcgmtest.Exposition(97, first)), Label{"dstack_job_id", "a"}, Label{"dstack_run_name", "train"})
	p.Add(parse(t, dcgmtest.Exposition(50, second)), Label{"dstack_job_id", "b"}, Label{"dstack_run_name", `"odd`})
	const host = `DCGM_FI_DRIVER_VERSION="570.86.15",Hostname="node-1",UUID="%s",device="nvidia0",dstack_job_id="%s",dstack_run_name="%s",%sgpu="0",modelName="NVIDIA H100 80GB HBM3",pci_bus_id="00000000:18:00.0"`
	a, b := fmt.Sprintf(host, first, "a", "train", ""), fmt.Sprintf(host, second, "b", `\"odd`, "")
	errA, errB := fmt.Sprintf(host, first, "a", "train", `err_code="0",err_msg="No Error",`), fmt.Sprintf(host, second, "b", `\"odd`, `err_code="0",err_msg="No Error",`)
	want := strings.NewReplacer("{A}", "{"+a+"}", "{B}", "{"+b+"}", "{EA}", "{"+errA+"}", "{EB}", "{"+errB+"}").Replace(`# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{A} 97
DCGM_FI_DEV_GPU_UTIL{B} 50
# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{A} 114.246
DCGM_FI_DEV_POWER_USAGE{B} 114.246
# HELP DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION Energy consumed since boot (in mJ).
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{A} 9.007199254740992e+15
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{B} 9.007199254740992e+15
# HELP DCGM_FI_DEV_XID_ERRORS Number of the last XID error.
# TYPE DCGM_FI_DEV_XID_ERRORS gauge
DCGM_FI_DEV_XID_ERRORS{EA} 0
DCGM_FI_DEV_XID_ERRORS{EB} 0
# HELP DCGM_FI_PROF_PIPE_TENSOR_ACTIVE Share of cycles in which the tensor pipe is active.
# TYPE DCGM_FI_PROF_PIPE_TENSOR_ACTIVE gauge
DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{A} 0.003105
DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{B} 0.003105
`)
	if diff := cmp.Diff(want, page(t, p)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Hosts that do not agree take nothing of others off the page.
func TestPageOfLies(t *testing.T) {
	p := &Page{}
	p.Add(parse(t, "# TYPE DCGM_A gauge\n# HELP DCGM_A lies\nDCGM_A{x=\"1\"} 1 1700000000000\n"), Label{"dstack_job_id", "a"})
	p.Add(parse(t, "# TYPE DCGM_A counter\nDCGM_A{x=\"1\"} 2\nDCGM_A{y=\"1\"} NaN\n"), Label{"dstack_job_id", "b"})
	p.Add(parse(t, "DCGM_A{x=\"1\"} 3\nDCGM_B 4\n"), Label{"dstack_job_id", "c"})
	want := `# HELP DCGM_A lies
# TYPE DCGM_A untyped
DCGM_A{dstack_job_id="a",x="1"} 1
DCGM_A{dstack_job_id="b",x="1"} 2
DCGM_A{dstack_job_id="b",y="1"} NaN
DCGM_A{dstack_job_id="c",x="1"} 3
# HELP DCGM_B 
# TYPE DCGM_B untyped
DCGM_B{dstack_job_id="c"} 4
`
	if diff := cmp.Diff(want, page(t, p)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	many := func(n int, line string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, line+"\n", i)
		}
		return b.String()
	}
	for name, c := range map[string]struct{ text, err string }{
		"a metric of the server":     {"dstack_run_count_total 1\n", "no metric of DCGM"},
		"a metric of the process":    {"DCGM_A 1\ngo_goroutines 1\n", "no metric of DCGM"},
		"a label of the server":      {`DCGM_A{dstack_project_name="main"} 1` + "\n", "not a host's to give"},
		"a label of Prometheus":      {`DCGM_A{__name__="up"} 1` + "\n", "__name__"},
		"a histogram":                {"# TYPE DCGM_A histogram\nDCGM_A_bucket{le=\"1\"} 1\n", "HISTOGRAM"},
		"a summary":                  {"# TYPE DCGM_A summary\nDCGM_A{quantile=\"0.5\"} 1\n", "SUMMARY"},
		"a type that there is not":   {"# TYPE DCGM_A miracle\nDCGM_A 1\n", "unknown metric type"},
		"a type twice":               {"# TYPE DCGM_A gauge\n# TYPE DCGM_A gauge\nDCGM_A 1\n", "TYPE"},
		"a sample twice":             {"DCGM_A{x=\"1\",y=\"2\"} 1\nDCGM_A{y=\"2\",x=\"1\"} 1\n", "the same labels"},
		"a label twice":              {`DCGM_A{x="1",x="2"} 1` + "\n", "x"},
		"a label that is a book":     {`DCGM_A{x="` + strings.Repeat("y", maxValue+1) + `"} 1` + "\n", "no short text"},
		"a label that is no text":    {"DCGM_A{x=\"\xff\"} 1\n", "invalid label value"},
		"a help that is a book":      {"# HELP DCGM_A " + strings.Repeat("y", maxHelp+1) + "\nDCGM_A 1\n", "no short text"},
		"a name of another language": {"{\"DCGM_ä\"} 1\n", "invalid metric name"},
		"no value":                   {"DCGM_A\n", "float"},
		"a value that is none":       {"DCGM_A one\n", "float"},
		"a line that breaks off":     {`DCGM_A{x="1"`, "unexpected end"},
		"two lines in one":           {"DCGM_A 1 2 DCGM_B 3\n", "spurious"},
		"too many labels":            {"DCGM_A{" + strings.ReplaceAll(many(maxLabels+1, `x%d="1",`), "\n", "") + "} 1\n", "65 labels"},
		"too many metrics":           {many(maxFamilies+1, "DCGM_A%d 1"), "513 metrics"},
		"too many samples":           {many(maxSamples+1, `DCGM_A{x="%d"} 1`), "8193 samples"},
		"too many lines":             {many(3*maxSamples+1, "# %d"), "lines"},
	} {
		if f, err := Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, %v, want %s", name, f, err, c.err)
		}
	}
	for _, fine := range []string{"", "\n", "# nothing\n", dcgmtest.Exposition(1, first, second)} {
		if _, err := Parse([]byte(fine)); err != nil {
			t.Errorf("%q: %v", fine, err)
		}
	}
}

// Whatever passes can be on a page with all else.
func FuzzParse(f *testing.F) {
	f.Add([]byte(dcgmtest.Exposition(97, first)))
	f.Add([]byte("# TYPE DCGM_A counter\nDCGM_A{a=\"\\\"\\n\"} -Inf 1\nDCGM_A_total 0x1p3\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		families, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("read once more: %v", err)
		}
		p := &Page{}
		p.Add(parse(t, dcgmtest.Exposition(97, first)), Label{"dstack_job_id", "a"})
		p.Add(families, Label{"dstack_job_id", "b"})
		p.Add(again, Label{"dstack_job_id", "c"})
		if written := page(t, p); !strings.Contains(written, `dstack_job_id="a"`) {
			t.Errorf("what others say is gone:\n%s", written)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	var uuids []string
	for n := range 8 {
		uuids = append(uuids, fmt.Sprintf("GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef%03d", n))
	}
	one := dcgmtest.Exposition(97, uuids...)
	var text strings.Builder // as many as the agent's exporter measures
	for n := range 10 {
		text.WriteString(strings.ReplaceAll(one, "DCGM_FI_", fmt.Sprintf("DCGM_FI_%d_", n)))
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		if _, err := Parse([]byte(text.String())); err != nil {
			b.Fatal(err)
		}
	}
}
