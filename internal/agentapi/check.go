package agentapi

import (
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
)

// What can be wrong with an event: see [Event.Check]. The words are few, so that they can be
// counted.
const (
	BadLine    = "a line that is too long or cannot be read"
	BadTaskID  = "no task's id"
	BadContent = "not what its kind says"
	BadState   = "a state that there is not"
	BadNumber  = "a number out of its range"
)

const (
	// maxCount bounds sizes in bytes, seconds and the like; sums of them do not overflow.
	maxCount = 1 << 60
	// maxGPUMetrics bounds the GPUs of one sample, and of a host.
	maxGPUMetrics = 1024
	// maxHostText bounds what a host says of itself in words, in bytes: some have thousands of addresses.
	maxHostText = 256 << 10
	// maxAhead is by how much a host's clock may be ahead.
	maxAhead = 48 * time.Hour
)

// epoch is before all hosts of ours: a clock that says so was never set.
var epoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// ValidID says that a task can have the id: a UUID, as it is written usually.
func ValidID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

// Check says what is wrong with an event, "" when nothing is: hosts are not trusted. It changes
// what can be made right: a time that cannot be becomes now, and what does not belong to the
// event's kind is left out. An event of an unknown kind says nothing.
func (e *Event) Check(now time.Time) (wrong string) {
	if e.Kind == UnreadableEvent {
		return BadLine
	}
	c := Event{Seq: e.Seq, Micros: e.Micros, Kind: e.Kind, Size: e.Size}
	if at := time.UnixMicro(c.Micros); at.Before(epoch) || at.After(now.Add(maxAhead)) {
		c.Micros = now.UnixMicro()
	}
	switch e.Kind {
	case TaskEvent:
		c.TaskID, c.Task, wrong = e.TaskID, e.Task, e.Task.check(e.TaskID)
	case LogEvent:
		c.TaskID, c.Log, wrong = e.TaskID, e.Log, e.Log.check()
	case MetricsEvent:
		c.TaskID, c.Metrics, wrong = e.TaskID, e.Metrics, e.Metrics.check()
	case HealthEvent:
		c.Health, wrong = e.Health, e.Health.check()
	case DCGMEvent:
		c.TaskID, c.DCGM = e.TaskID, e.DCGM
		if len(e.DCGM) == 0 || len(e.DCGM) > MaxPacked {
			wrong = BadContent
		}
	}
	if c.TaskID == "" && (c.Task != nil || c.Log != nil || c.Metrics != nil || c.DCGM != nil) || c.TaskID != "" && !ValidID(c.TaskID) {
		wrong = BadTaskID
	}
	*e = c
	return wrong
}

// Check says what is wrong with what a host says of itself, "" when nothing is: it is stored and shown.
func (h *HostInfo) Check() (wrong string) {
	texts := append([]string{h.Version, h.Hash, h.BootID, h.InstanceKey, h.Runtime, h.RuntimeVersion, h.Arch, h.Hostname, h.DefaultAddress, h.GPUVendor}, h.Addresses...)
	texts = append(texts, h.Warnings...)
	ok := counts(int64(h.CPUs), h.Memory, h.DiskSize) && len(h.GPUs)+len(h.HeldGPUs) <= maxGPUMetrics
	for _, g := range slices.Concat(h.GPUs, h.HeldGPUs) {
		texts = append(texts, g.ID, g.Name, g.Driver)
		ok = ok && counts(int64(g.MemoryMiB))
	}
	size := 0
	for _, text := range texts {
		size += len(text) + 1
	}
	switch {
	case !ok:
		return BadNumber
	case size > maxHostText:
		return BadContent
	}
	return ""
}

// Check says what is wrong with what a host says of a task, "" when nothing is.
func (t *Task) Check() (wrong string) {
	if !ValidID(t.ID) {
		return BadTaskID
	}
	return t.check(t.ID)
}

func (t *Task) check(id string) (wrong string) {
	if t == nil || t.ID != id {
		return BadContent
	}
	switch t.State {
	case Pending, Preparing, Pulling, Creating, Running, Terminated:
	default:
		return BadState
	}
	if !counts(t.JobLog, t.RunnerLog, t.IdleSeconds, t.CreatedAt, t.FinishedAt) {
		return BadNumber
	}
	if p := t.Pull; p != nil && !counts(p.Downloaded, p.Extracted, p.Total) {
		return BadNumber
	}
	if x := t.ExitStatus; x != nil && (*x < math.MinInt32 || *x > math.MaxInt32) {
		return BadNumber
	}
	for inside, outside := range t.Ports {
		if inside < 1 || inside > math.MaxUint16 || outside < 1 || outside > math.MaxUint16 {
			return BadNumber
		}
	}
	return ""
}

func (l *LogData) check() (wrong string) {
	switch {
	case l == nil, l.Source != JobLog && l.Source != RunnerLog:
		return BadContent
	case !counts(l.Offset):
		return BadNumber
	}
	return ""
}

func (m *Metrics) check() (wrong string) {
	if m == nil {
		return BadContent
	}
	ok := counts(m.CPUMicros, m.MemoryBytes, m.WorkingSetBytes) && len(m.GPUs) <= maxGPUMetrics
	for _, g := range m.GPUs {
		ok = ok && counts(g.MemoryBytes, int64(g.UtilPercent))
	}
	if !ok {
		return BadNumber
	}
	return ""
}

// counts says that numbers can count something.
func counts(numbers ...int64) bool {
	for _, n := range numbers {
		if n < 0 || n > maxCount {
			return false
		}
	}
	return true
}
