package runtime

import (
	"net/netip"

	"dstack/internal/agentapi"
)

func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// layers sums up the progress of an image pull (host-agents 1.13).
type layers struct {
	byID map[string]*layer
}

type layer struct {
	status                       string
	downloaded, extracted, total int64
}

func newLayers() layers { return layers{map[string]*layer{}} }

// see takes one message of the engine and says whether anything changed.
func (l layers) see(id, status string, current, total int64) bool {
	if id == "" {
		return false
	}
	v := l.byID[id]
	if v == nil {
		v = &layer{}
	}
	switch status {
	case "Pulling fs layer", "Waiting", "Verifying Checksum", "Already exists":
	case "Downloading":
		v.downloaded, v.total = current, total
	case "Download complete":
		v.downloaded = v.total
	case "Extracting":
		v.extracted, v.downloaded, v.total = current, total, total
	case "Pull complete":
		v.extracted, v.downloaded = v.total, v.total
	default:
		return false
	}
	v.status = status
	l.byID[id] = v
	return true
}

func (l layers) sum() agentapi.PullProgress {
	p := agentapi.PullProgress{TotalFinal: true}
	for _, v := range l.byID {
		p.Downloaded += v.downloaded
		p.Extracted += v.extracted
		p.Total += v.total
		if v.total == 0 && v.status != "Already exists" && v.status != "Pull complete" {
			p.TotalFinal = false
		}
	}
	return p
}
