package dcgm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/agentapi"
)

// ErrAbsent says that nothing on the host checks its GPUs.
var ErrAbsent = errors.New("dcgmi is not installed")

// Doctor checks the health of a host's GPUs.
type Doctor struct {
	// Address of the host engine that is asked, "" for the one that listens on this host.
	Address string
}

// Check asks for the health of all GPUs. The host engine looks at them all the time; it is told to
// when it does not. ErrAbsent: there is no dcgmi.
func (d Doctor) Check(ctx context.Context) (agentapi.DCGMHealth, error) {
	out, err := d.dcgmi(ctx, "--check", "--json")
	if err != nil && bytes.Contains(out, []byte("watches not enabled")) {
		if out, err = d.dcgmi(ctx, "--set", "a"); err == nil {
			out, err = d.dcgmi(ctx, "--check", "--json")
		}
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return agentapi.DCGMHealth{}, ErrAbsent
	case err != nil && len(out) > 0: // it tells why on its output
		return agentapi.DCGMHealth{}, fmt.Errorf("check the health of GPUs: %w: %s", err, short(out))
	case err != nil:
		return agentapi.DCGMHealth{}, fmt.Errorf("check the health of GPUs: %w", err)
	}
	h, err := parseHealth(out)
	if err != nil {
		return h, fmt.Errorf("check the health of GPUs: %w", err)
	}
	return h, nil
}

func (d Doctor) dcgmi(ctx context.Context, args ...string) ([]byte, error) {
	args = append([]string{"health"}, args...)
	if d.Address != "" {
		args = append(args, "--host", d.Address)
	}
	return run(ctx, "dcgmi", args...)
}

// node is a part of a report of dcgmi.
type node struct {
	Value    string          `json:"value"`
	Overflow []string        `json:"overflow"` // lines that belong to the value
	Children map[string]node `json:"children"`
}

// overall is the part of a report that says how well all is.
const overall = "Overall Health"

// entities are the kinds of things that a report speaks of, with DCGM's numbers (dcgm_fields.h).
var entities = map[string]int{"None": 0, "GPU": 1, "vGPU": 2, "VGPU": 2, "Switch": 3, "NvSwitch": 3, "GPU_I": 4, "GPU_CI": 5, "Link": 6, "CPU": 7, "CPU_CORE": 8, "ConnectX": 9}

// systems are the parts that are watched, with DCGM's bits (dcgm_structs.h).
var systems = map[string]int{"PCIe system": 1, "NVLINK system": 2, "PMU system": 4, "MCU system": 8, "Memory system": 16, "SM system": 32,
	"InfoROM system": 64, "Thermal system": 128, "Power system": 256, "Driver": 512}

// unknownError is DCGM's code for an error of which the code is not known: dcgmi prints none.
const unknownError = 1

// parseHealth reads a report as `dcgmi health --check --json` prints it. Text before it is
// passed over. Findings of one part of one GPU are one incident there.
func parseHealth(out []byte) (agentapi.DCGMHealth, error) {
	var h agentapi.DCGMHealth
	start := bytes.IndexByte(out, '{')
	if start < 0 {
		return h, fmt.Errorf("dcgmi prints no report: %s", short(out))
	}
	var report struct {
		Body map[string]node `json:"body"`
	}
	if err := json.Unmarshal(out[start:], &report); err != nil {
		return h, fmt.Errorf("read dcgmi's report: %w", err)
	}
	all, ok := report.Body[overall]
	if !ok {
		return h, fmt.Errorf("dcgmi's report has no %q", overall)
	}
	var err error
	if h.OverallHealth, err = health(all.Value); err != nil {
		return h, err
	}
	h.Incidents = []agentapi.Incident{}
	for kind, group := range report.Body {
		if kind == overall {
			continue
		}
		for id, entity := range group.Children {
			found, err := incidents(kind, id, entity)
			if err != nil {
				return agentapi.DCGMHealth{}, err
			}
			h.Incidents = append(h.Incidents, found...)
		}
	}
	slices.SortFunc(h.Incidents, func(a, b agentapi.Incident) int { // the worst first
		return cmp.Or(cmp.Compare(b.Health, a.Health), cmp.Compare(a.EntityGroupID, b.EntityGroupID), cmp.Compare(a.EntityID, b.EntityID),
			cmp.Compare(a.System, b.System), cmp.Compare(a.ErrorMessage, b.ErrorMessage))
	})
	h.Incidents = h.Incidents[:min(len(h.Incidents), agentapi.MaxIncidents)]
	return h, nil
}

// incidents reads what a report says of one GPU or the like.
func incidents(kind, id string, entity node) ([]agentapi.Incident, error) {
	num, err := strconv.Atoi(id)
	if err != nil || num < 0 {
		return nil, fmt.Errorf("dcgmi's report speaks of the %s %q", kind, id)
	}
	var list []agentapi.Incident
	for system, e := range entity.Children["Errors"].Children {
		h, err := health(e.Value)
		if err != nil {
			return nil, err
		}
		text := strings.Join(e.Overflow, " ")
		list = append(list, agentapi.Incident{System: systems[system], Health: h, ErrorMessage: strings.ToValidUTF8(text[:min(len(text), agentapi.MaxIncidentText)], ""),
			ErrorCode: unknownError, EntityGroupID: entities[kind], EntityID: num})
	}
	return list, nil
}

func health(word string) (int, error) {
	switch word {
	case "Healthy":
		return agentapi.HealthPass, nil
	case "Warning":
		return agentapi.HealthWarn, nil
	case "Failure":
		return agentapi.HealthFail, nil
	}
	return 0, fmt.Errorf("dcgmi's report has a health %q", word)
}
