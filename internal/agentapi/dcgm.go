package agentapi

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strconv"
	"time"
)

// Wish is what a listener wants of an event stream besides what each carries. An agent that does
// not know of wishes grants none.
type Wish struct {
	// Health is the time between checks of the accelerators, in whole seconds; 0: none.
	Health time.Duration
	// DCGM asks for what DCGM measures of the GPUs of tasks, every [DCGMEvery].
	DCGM bool
	// Server is who listens, for [OwnerFile]: the id of its database. "" is nobody in particular.
	Server string
}

const (
	// OwnerFile is the file of the agent's home that names the server which listens, or did last. While one
	// does, it is written anew every [OwnerFileEvery].
	OwnerFile      = "server"
	OwnerFileEvery = time.Minute
	// ServerGrace is how long a host is a server's after that was last connected. It has to find its way back
	// from a restart; one that is made anew with an empty database gets its hosts while it tries to add them.
	ServerGrace = 5 * time.Minute
	// KeyFile is the file of the agent's home that has [HostInfo.InstanceKey].
	KeyFile = "instance_key"
	// InUse is the code of the error that an agent is another server's.
	InUse = "in_use"
)

// serverName is what may name a server.
var serverName = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// DCGMEvery is the time between two [DCGMEvent]s of a task.
const DCGMEvery = 10 * time.Second

// query adds the wish to the address of a stream.
func (w Wish) query(q url.Values) {
	if s := int64(w.Health / time.Second); s > 0 {
		q.Set("health", strconv.FormatInt(s, 10))
	}
	if w.DCGM {
		q.Set("dcgm", "1")
	}
	if w.Server != "" {
		q.Set("server", w.Server)
	}
}

// maxHealthSeconds bounds the time between two checks: a day.
const maxHealthSeconds = 24 * 3600

// WishOf reads what [Wish] added to an address. What is no wish is none.
func WishOf(q url.Values) Wish {
	w := Wish{DCGM: q.Get("dcgm") == "1"}
	if s, err := strconv.ParseInt(q.Get("health"), 10, 64); err == nil && s > 0 {
		w.Health = Seconds(min(s, maxHealthSeconds))
	}
	if name := q.Get("server"); serverName.MatchString(name) {
		w.Server = name
	}
	return w
}

// How well something is, as DCGM counts: the worst of many is the highest.
const (
	HealthPass = 0
	HealthWarn = 10
	HealthFail = 20
)

// Health is a check of a host's accelerators (host-agents 1.4).
type Health struct {
	// DCGM is nil on hosts where nothing looks at their GPUs.
	DCGM *DCGMHealth `json:"dcgm"`
}

// DCGMHealth is what NVIDIA's DCGM found.
type DCGMHealth struct {
	OverallHealth int        `json:"overall_health"` // HealthPass, HealthWarn or HealthFail
	Incidents     []Incident `json:"incidents"`
}

// Incident is one finding. The numbers are DCGM's own.
type Incident struct {
	System        int    `json:"system"` // the bit of the part that was watched, 0: not known
	Health        int    `json:"health"`
	ErrorMessage  string `json:"error_message"`
	ErrorCode     int    `json:"error_code"`      // 1: not known
	EntityGroupID int    `json:"entity_group_id"` // 1: GPUs
	EntityID      int    `json:"entity_id"`       // of the GPU, as DCGM counts them
}

const (
	// MaxIncidents bounds the findings of one check; DCGM itself gives up to 64.
	MaxIncidents = 256
	// MaxIncidentText bounds the message of one, in bytes.
	MaxIncidentText = 4 << 10
)

func (h *Health) check() (wrong string) {
	switch {
	case h == nil:
		return BadContent
	case h.DCGM == nil:
		return ""
	case !isHealth(h.DCGM.OverallHealth) || len(h.DCGM.Incidents) > MaxIncidents:
		return BadNumber
	}
	for _, i := range h.DCGM.Incidents {
		if !isHealth(i.Health) || !counts(int64(i.System), int64(i.ErrorCode), int64(i.EntityGroupID), int64(i.EntityID)) {
			return BadNumber
		}
		if len(i.ErrorMessage) > MaxIncidentText {
			return BadContent
		}
	}
	return ""
}

func isHealth(n int) bool { return n == HealthPass || n == HealthWarn || n == HealthFail }

const (
	// MaxText bounds the text that an exporter of metrics gives for one task, in bytes.
	MaxText = 1 << 20
	// MaxPacked bounds it packed. Such text packs to a twentieth.
	MaxPacked = 256 << 10
)

// Pack makes text small.
func Pack(text []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(text) // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

// Unpack undoes [Pack]. Text of more than [MaxText] is an error.
func Unpack(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack text: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(r, MaxText+1))
	if err != nil {
		return nil, fmt.Errorf("unpack text: %w", err)
	}
	if len(text) > MaxText {
		return nil, fmt.Errorf("unpack text: there are more than %d bytes", MaxText)
	}
	return text, nil
}
