package agentapi

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const taskID = "d27130f5-ef7b-41b5-8180-200bc215bacf"

func TestEventCheck(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	exit := func(n int) *int { return &n }
	log := func(change func(*LogData)) Event {
		d := &LogData{Source: JobLog, Offset: 3, Data: []byte("x")}
		change(d)
		return Event{Kind: LogEvent, TaskID: taskID, Log: d}
	}
	task := func(change func(*Task)) Event {
		v := &Task{ID: taskID, State: Running}
		change(v)
		return Event{Kind: TaskEvent, TaskID: taskID, Task: v}
	}
	health := func(h *DCGMHealth) Event { return Event{Kind: HealthEvent, Health: &Health{DCGM: h}} }
	metrics := func(m Metrics) Event { return Event{Kind: MetricsEvent, TaskID: taskID, Metrics: &m} }
	for name, c := range map[string]struct {
		e    Event
		want string
	}{
		"output":                          {log(func(*LogData) {}), ""},
		"output from the beginning":       {log(func(d *LogData) { d.Offset, d.Data = 0, nil }), ""},
		"output before the beginning":     {log(func(d *LogData) { d.Offset = -5 }), BadNumber},
		"output beyond all disks":         {log(func(d *LogData) { d.Offset = 9e18 }), BadNumber},
		"a stream that there is not":      {log(func(d *LogData) { d.Source = "../../x" }), BadContent},
		"no output":                       {Event{Kind: LogEvent, TaskID: taskID}, BadContent},
		"no task":                         {Event{Kind: TaskEvent, TaskID: taskID}, BadContent},
		"no metrics":                      {Event{Kind: MetricsEvent, TaskID: taskID}, BadContent},
		"no health":                       {Event{Kind: HealthEvent}, BadContent},
		"a host whose GPUs nobody checks": {health(nil), ""},
		"health":                          {health(&DCGMHealth{OverallHealth: HealthFail, Incidents: []Incident{{System: 16, Health: HealthFail, ErrorMessage: "row remap failure"}}}), ""},
		"a health that there is not":      {health(&DCGMHealth{OverallHealth: 7}), BadNumber},
		"a finding that there is not":     {health(&DCGMHealth{Incidents: []Incident{{Health: 21}}}), BadNumber},
		"a GPU before the first":          {health(&DCGMHealth{Incidents: []Incident{{EntityID: -1}}}), BadNumber},
		"more findings than any check":    {health(&DCGMHealth{Incidents: make([]Incident, MaxIncidents+1)}), BadNumber},
		"a finding that is a book":        {health(&DCGMHealth{Incidents: []Incident{{ErrorMessage: strings.Repeat("x", MaxIncidentText+1)}}}), BadContent},
		"figures of GPUs":                 {Event{Kind: DCGMEvent, TaskID: taskID, DCGM: Pack([]byte("x 1\n"))}, ""},
		"no figures of GPUs":              {Event{Kind: DCGMEvent, TaskID: taskID}, BadContent},
		"figures of nobody's GPUs":        {Event{Kind: DCGMEvent, DCGM: []byte{1}}, BadTaskID},
		"figures that are a book":         {Event{Kind: DCGMEvent, TaskID: taskID, DCGM: make([]byte, MaxPacked+1)}, BadContent},
		"an id with a NUL":                {Event{Kind: LogEvent, TaskID: "a\x00b", Log: &LogData{Source: JobLog}}, BadTaskID},
		"an id that is none":              {Event{Kind: LogEvent, TaskID: "../x", Log: &LogData{Source: JobLog}}, BadTaskID},
		"an id as nobody writes it":       {Event{Kind: LogEvent, TaskID: "{" + taskID + "}", Log: &LogData{Source: JobLog}}, BadTaskID},
		"no id":                           {Event{Kind: MetricsEvent, Metrics: &Metrics{}}, BadTaskID},
		"a task":                          {task(func(v *Task) { v.ExitStatus, v.Ports = exit(137), map[int]int{10022: 32768} }), ""},
		"another task":                    {task(func(v *Task) { v.ID = "other" }), BadContent},
		"a state that there is not":       {task(func(v *Task) { v.State = "exploded" }), BadState},
		"an exit status that cannot be":   {task(func(v *Task) { v.ExitStatus = exit(99999999999) }), BadNumber},
		"a log of less than nothing":      {task(func(v *Task) { v.JobLog = -1 }), BadNumber},
		"a port that there is not":        {task(func(v *Task) { v.Ports = map[int]int{22: 70000} }), BadNumber},
		"a pull of less than nothing":     {task(func(v *Task) { v.Pull = &PullProgress{Total: -1} }), BadNumber},
		"metrics":                         {metrics(Metrics{CPUMicros: 5, GPUs: []GPUMetrics{{MemoryBytes: 1, UtilPercent: 100}}}), ""},
		"time that runs backwards":        {metrics(Metrics{CPUMicros: -1}), BadNumber},
		"memory beyond all machines":      {metrics(Metrics{MemoryBytes: 9223372036854775807}), BadNumber},
		"a GPU of less than nothing":      {metrics(Metrics{GPUs: []GPUMetrics{{MemoryBytes: -1}}}), BadNumber},
		"more GPUs than any machine":      {metrics(Metrics{GPUs: make([]GPUMetrics, 2000)}), BadNumber},
		"an unknown kind":                 {Event{Kind: "gossip"}, ""},
		"an unknown kind with an odd id":  {Event{Kind: "gossip", TaskID: "a\x00b", Task: &Task{ID: "x"}}, ""},
		"a line that could not be read":   {Event{Kind: UnreadableEvent}, BadLine},
		"a log with the task of another?": {Event{Kind: LogEvent, TaskID: taskID, Log: &LogData{Source: JobLog}, Task: &Task{ID: "x"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := c.e
			e.Micros = now.UnixMicro()
			if got := e.Check(now); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if e.Task != nil && e.Kind != TaskEvent || e.Kind == "gossip" && e.TaskID != "" {
				t.Errorf("it still says what is not of its kind: %+v", e)
			}
		})
	}
}

// A time that cannot be is replaced: the event still says something.
func TestEventTimes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct{ at, want int64 }{
		"now":               {now.UnixMicro(), now.UnixMicro()},
		"a wrong clock":     {now.Add(-6 * time.Hour).UnixMicro(), now.Add(-6 * time.Hour).UnixMicro()},
		"a clock never set": {5, now.UnixMicro()},
		"before all":        {-9223372036854775808, now.UnixMicro()},
		"after all":         {9223372036854775807, now.UnixMicro()},
	} {
		e := Event{Kind: LogEvent, TaskID: taskID, Micros: c.at, Log: &LogData{Source: JobLog}}
		if wrong := e.Check(now); wrong != "" || e.Micros != c.want {
			t.Errorf("%s: %d becomes %d (%q), want %d", name, c.at, e.Micros, wrong, c.want)
		}
	}
}

func TestHostCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*HostInfo)
		want   string
	}{
		"nothing":           {func(*HostInfo) {}, ""},
		"many addresses":    {func(h *HostInfo) { h.Addresses = slices.Repeat([]string{"fe80::e868:8fff:fe11:6c4b/64"}, 5000) }, ""},
		"CPUs":              {func(h *HostInfo) { h.CPUs = -1 }, BadNumber},
		"memory":            {func(h *HostInfo) { h.Memory = 1 << 62 }, BadNumber},
		"disk":              {func(h *HostInfo) { h.DiskSize = -1 }, BadNumber},
		"GPUs":              {func(h *HostInfo) { h.GPUs = make([]GPU, 1025) }, BadNumber},
		"a GPU's memory":    {func(h *HostInfo) { h.GPUs[1].MemoryMiB = -1 }, BadNumber},
		"a long name":       {func(h *HostInfo) { h.Hostname = strings.Repeat("x", maxHostText) }, BadContent},
		"long warnings":     {func(h *HostInfo) { h.Warnings = slices.Repeat([]string{"x"}, maxHostText) }, BadContent},
		"a GPU's long name": {func(h *HostInfo) { h.GPUs[0].Name = strings.Repeat("x", maxHostText) }, BadContent},
		"held GPUs":         {func(h *HostInfo) { h.HeldGPUs = make([]GPU, 1023) }, BadNumber},
		"one held GPU":      {func(h *HostInfo) { h.HeldGPUs = make([]GPU, 1) }, ""},
		"a held GPU's name": {func(h *HostInfo) { h.HeldGPUs = []GPU{{Name: strings.Repeat("x", maxHostText)}} }, BadContent},
	} {
		h := HostInfo{Hostname: "box", CPUs: 96, Memory: 1 << 40, DiskSize: 1 << 44, GPUs: []GPU{{Name: "H100", MemoryMiB: 81559}, {}}}
		c.change(&h)
		if wrong := h.Check(); wrong != c.want {
			t.Errorf("%s: %q, want %q", name, wrong, c.want)
		}
	}
}

func TestWithoutNUL(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":"b"}`:            "b",
		`{"a":"x\u0000y"}`:     "x\ufffdy",
		`{"a":"\u0000\u0000"}`: "\ufffd\ufffd",
		`{"a":"\\u0000"}`:      `\u0000`,
		`{"a":"\\\u0000"}`:     `\` + "\ufffd",
		`{"a":"\"\u0000"}`:     `"` + "\ufffd",
	} {
		var got struct{ A string }
		if err := unmarshal([]byte(in), &got); err != nil || got.A != want {
			t.Errorf("%s is %q (%v), want %q", in, got.A, err, want)
		}
	}
}

// FuzzEventCheck: whatever is found right can be stored: it has no NUL, and its times can be
// written.
func FuzzEventCheck(f *testing.F) {
	f.Add([]byte(`{"seq":1,"micros":-5,"kind":"log","task_id":"` + taskID + `","log":{"source":"job","offset":0,"data":"aGk="}}`))
	f.Add([]byte(`{"kind":"task","task_id":"` + taskID + `","task":{"id":"` + taskID + `","state":"running","message":"a\u0000b"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var e Event
		if unmarshal(line, &e) != nil {
			return
		}
		if e.Check(time.Now()) != "" {
			return
		}
		out, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(out), string(withoutNUL(out))); diff != "" {
			t.Errorf("a NUL is left: %s", diff)
		}
		if _, err := time.UnixMicro(e.Micros).UTC().MarshalJSON(); err != nil {
			t.Error(err)
		}
	})
}
