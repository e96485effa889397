package jobspec

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/jobspec/jobspectest"
	"dstack/internal/recorded"
)

// refused are configurations that the original accepts, or refuses only with an internal
// error, and that we refuse.
var refused = map[string]string{
	"task-docker-string-true-with-image": "`docker: \"true\"` means true, which excludes an image",
	"task-docker-one-with-python":        "`docker: 1` means true, which excludes a Python version",
	"task-ports-true":                    "a boolean is no port",
	"task-env-map-sentinel":              "a variable has no value, which the original notices when the job starts",
	"task-volumes-empty-name":            "a volume has a name",
	"task-volumes-empty-name-list":       "a volume has a name",
	"task-nodes-true":                    "a boolean is no number",
	"task-resources-gpu-true":            "a boolean is no name of a GPU",
	"task-resources-negative":            "counts and sizes are not negative",
	"task-resources-range-bool":          "booleans are no numbers",
	"task-max-price-true":                "a boolean is no price",
	"task-max-price-inf":                 "infinity would silently mean no limit",
	"task-priority-false":                "a boolean is no priority",
	"dev-full":                           "a variable has no value, which the original notices when the job starts",
	"service-port-true":                  "a boolean is no port",
	"service-replicas-true":              "a boolean is no number",
	"service-scaling-target-inf":         "infinity is no target",
	"service-scaling-without-replicas":   "the original answers 500",
	"service-groups-entrypoint-allowed":  "the entrypoint would silently drop the groups' commands",
	"task-resources-gpu-negative":        "counts are not negative",
}

// different are configurations whose form differs from the recorded one on purpose.
var different = map[string]string{
	"task-repos-url-with-port-missplit": "the original takes the port of a URL for the path to clone to",
}

func TestNormaliseRecorded(t *testing.T) {
	type row struct {
		Case, YAML string
		Error      *string
		Out        struct {
			Configuration json.RawMessage
			Profile       json.RawMessage `json:"merged_profile"`
		}
	}
	recorded.Rows(t, "testdata/server-side.jsonl.gz", func(t *testing.T, r row) {
		t.Run(r.Case, func(t *testing.T) {
			spec, err := jobspectest.Parse(r.YAML)
			if why := refused[r.Case]; why != "" {
				if err == nil && (Limits{}).Normalise(&spec, "ssh-ed25519 AAAA") == nil {
					t.Errorf("accepted, although %s", why)
				}
				return
			}
			if err != nil {
				t.Fatalf("refused when read: %v\n%s", err, r.YAML)
			}
			for range 2 { // the second time changes nothing
				err = Limits{}.Normalise(&spec, "ssh-ed25519 AAAA")
				if diff := cmp.Diff(recorded.Text(r.Error), recorded.Message(err)); diff != "" {
					t.Fatalf("error (-recorded +got):\n%s\n%s", diff, r.YAML)
				}
				if err != nil {
					return
				}
				if different[r.Case] != "" {
					return
				}
				sameJSON(t, "configuration", r.Out.Configuration, spec.Configuration)
				sameJSON(t, "merged profile", r.Out.Profile, spec.Merged())
			}
		})
	})
}

// sameJSON compares what v becomes on the wire, where keys with null may be there or not.
func sameJSON(t *testing.T, what string, want json.RawMessage, v any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var w, got any
	if err := errors.Join(json.Unmarshal(want, &w), json.Unmarshal(data, &got)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(withoutNulls(w), withoutNulls(got)); diff != "" {
		t.Errorf("%s (-recorded +got):\n%s", what, diff)
	}
}

func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if v[k] = withoutNulls(e); e == nil {
				delete(v, k)
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutNulls(v[i])
		}
	}
	return v
}

func TestGroupRefsRecorded(t *testing.T) {
	type row struct {
		Fn, In     string
		View       [][]string
		Out, Error *string
	}
	member := map[string]string{"interpolate_groups_ip_address": nodeMember, "interpolate_groups_replica_ip_address": ReplicaMember}
	recorded.Rows(t, "testdata/group-refs.jsonl", func(t *testing.T, r row) {
		got, err := Interpolate(r.In, member[r.Fn], r.View)
		if got != recorded.Text(r.Out) || recorded.Message(err) != recorded.Text(r.Error) {
			t.Errorf("%s(%q) = %q, %v; recorded %q, %s", r.Fn, r.In, got, err, recorded.Text(r.Out), recorded.Text(r.Error))
		}
	})
}

func TestMountableRecorded(t *testing.T) {
	type row struct {
		In  string
		Out bool
	}
	recorded.Rows(t, "testdata/volume-target.jsonl", func(t *testing.T, r row) {
		if got := mountable(r.In); got != r.Out {
			t.Errorf("mountable(%q) = %v, recorded %v", r.In, got, r.Out)
		}
	})
}
