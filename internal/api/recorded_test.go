package api

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRecordedResponses reads what the published server answered, in every shape and status
// that was recorded, and writes it again: our types must hold all of it, with the same keys
// and the same nulls.
func TestRecordedResponses(t *testing.T) {
	types := map[string]func() any{
		"Run": func() any { return new(Run) }, "RunList": func() any { return new([]Run) }, "RunPlan": func() any { return new(RunPlan) },
		"Fleet": func() any { return new(Fleet) }, "FleetList": func() any { return new([]Fleet) }, "FleetPlan": func() any { return new(FleetPlan) },
		"InstanceList": func() any { return new([]Instance) }, "JobSubmissionLogs": func() any { return new(JobSubmissionLogs) }, "JobMetrics": func() any { return new(JobMetrics) },
		"EventList": func() any { return new([]Event) }, "UserWithCreds": func() any { return new(UserWithCreds) }, "Project": func() any { return new(Project) },
		"Secret": func() any { return new(Secret) }, "ListGpusResponse": func() any { return new(ListGpusResponse) }, "RepoHeadWithCreds": func() any { return new(RepoHeadWithCreds) },
	}
	f, err := os.Open("testdata/responses.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		From, Type string
		Body       json.RawMessage
	}
	if err := json.NewDecoder(zr).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		make := types[r.Type]
		if make == nil {
			t.Fatalf("%s: no type %s", r.From, r.Type)
		}
		v := make()
		if err := json.Unmarshal(r.Body, v); err != nil {
			t.Errorf("%s: %v", r.From, err)
			continue
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", r.From, err)
			continue
		}
		if diff := cmp.Diff(plain(t, r.Body), plain(t, data)); diff != "" {
			t.Errorf("%s, %s (-recorded +ours):\n%s", r.From, r.Type, diff)
		}
	}
}

// plain is a document without types; moments are compared as such, whatever their form.
func plain(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return moments(v)
}

func moments(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = moments(v[k])
		}
	case []any:
		for i := range v {
			v[i] = moments(v[i])
		}
	case string:
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return at.UTC().Format(time.RFC3339Nano)
		}
	}
	return v
}
