package dcgm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agent/dcgm/dcgmtest"
	"dstack/internal/agentapi"
)

func TestParseHealth(t *testing.T) {
	report, err := os.ReadFile("testdata/health.json")
	if err != nil {
		t.Fatal(err)
	}
	many := agentapi.DCGMHealth{OverallHealth: agentapi.HealthFail, Incidents: []agentapi.Incident{
		{System: 2, Health: 20, ErrorMessage: "GPU 2's NvLink link 3 is currently down.", ErrorCode: 1, EntityGroupID: 1, EntityID: 2},
		{System: 16, Health: 20, ErrorMessage: "A DBE or a row that cannot be remapped: GPU 10 had uncorrectable errors in its memory. Drain the GPU and reset it or reboot the node.", ErrorCode: 1, EntityGroupID: 1, EntityID: 10},
		{System: 1, Health: 10, ErrorMessage: "Detected 12 PCIe replays per minute for GPU 10, more than 8.", ErrorCode: 1, EntityGroupID: 1, EntityID: 10},
		{System: 0, Health: 10, ErrorMessage: "NvSwitch 0 detected a nonfatal error.", ErrorCode: 1, EntityGroupID: 3, EntityID: 0},
	}}
	well := agentapi.DCGMHealth{Incidents: []agentapi.Incident{}}
	for name, c := range map[string]struct {
		out  string
		want agentapi.DCGMHealth
		err  string
	}{
		"many findings":        {string(report), many, ""},
		"all well":             {dcgmtest.Report("", ""), well, ""},
		"words before it":      {"Warning: the host engine is older\n" + dcgmtest.Report("", ""), well, ""},
		"a warning":            {dcgmtest.Report("Warning", "x"), agentapi.DCGMHealth{OverallHealth: 10, Incidents: []agentapi.Incident{{System: 16, Health: 10, ErrorMessage: "x", ErrorCode: 1, EntityGroupID: 1}}}, ""},
		"nothing":              {"", agentapi.DCGMHealth{}, "no report"},
		"no JSON":              {"Error: Unable to connect to host engine.\n", agentapi.DCGMHealth{}, "Unable to connect to host engine"},
		"half a report":        {string(report[:200]), agentapi.DCGMHealth{}, "unexpected end"},
		"another command's":    {`{"body": {"GPU ID": {"value": "0"}}}`, agentapi.DCGMHealth{}, `no "Overall Health"`},
		"a word of the future": {`{"body": {"Overall Health": {"value": "Splendid"}}}`, agentapi.DCGMHealth{}, `a health "Splendid"`},
		"a GPU without number": {`{"body": {"Overall Health": {"value": "Healthy"}, "GPU": {"children": {"x": {}}}}}`, agentapi.DCGMHealth{}, `the GPU "x"`},
		"other forms":          {`{"body": [1]}`, agentapi.DCGMHealth{}, "cannot unmarshal"},
	} {
		got, err := parseHealth([]byte(c.out))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %s", name, err, c.err)
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// What a report makes of it can be told to a server, whatever is in it.
func FuzzParseHealth(f *testing.F) {
	report, err := os.ReadFile("testdata/health.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(report)
	f.Add([]byte(dcgmtest.Report("Warning", "\xff")))
	f.Fuzz(func(t *testing.T, out []byte) {
		h, err := parseHealth(out)
		if err != nil {
			return
		}
		e := agentapi.Event{Kind: agentapi.HealthEvent, Health: &agentapi.Health{DCGM: &h}}
		if wrong := e.Check(testTime); wrong != "" {
			t.Errorf("%q makes %+v: %s", out, h, wrong)
		}
	})
}

func TestCheck(t *testing.T) {
	t.Run("absent", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if _, err := (Doctor{}).Check(t.Context()); !errors.Is(err, ErrAbsent) {
			t.Errorf("%v, want ErrAbsent", err)
		}
	})
	t.Run("no engine, then one", func(t *testing.T) {
		dir := dcgmtest.Install(t, "dcgmi")
		if h, err := (Doctor{}).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "unable to establish a connection") {
			t.Errorf("without an engine: %+v, %v", h, err)
		}
		dcgmtest.Write(t, dir, dcgmtest.HealthFile, dcgmtest.Report("Failure", "row remap failure"))
		for _, when := range []string{"watches are set", "they are set already"} {
			h, err := Doctor{}.Check(t.Context())
			if err != nil || h.OverallHealth != agentapi.HealthFail || len(h.Incidents) != 1 || h.Incidents[0].ErrorMessage != "row remap failure" {
				t.Errorf("%s: %+v, %v", when, h, err)
			}
		}
	})
	t.Run("an engine elsewhere", func(t *testing.T) {
		dir := script(t, "dcgmi", `echo "$@" >"$(dirname "$0")/args"; echo '{"body": {"Overall Health": {"value": "Healthy"}}}'`)
		if _, err := (Doctor{Address: "10.0.0.1:5555"}).Check(t.Context()); err != nil {
			t.Error(err)
		}
		if args, err := os.ReadFile(filepath.Join(dir, "args")); err != nil || string(args) != "health --check --json --host 10.0.0.1:5555\n" {
			t.Errorf("asked with %s, %v", args, err)
		}
	})
	t.Run("it prints for ever", func(t *testing.T) {
		script(t, "dcgmi", `while :; do echo nonsense-nonsense-nonsense-nonsense; done`)
		if h, err := (Doctor{}).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "prints more than") {
			t.Errorf("%+v, %v", h, err)
		}
	})
}

// script makes a program of the shell and puts it in front of PATH.
func script(t *testing.T, name, text string) (dir string) {
	t.Helper()
	dir = dcgmtest.Install(t)
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
