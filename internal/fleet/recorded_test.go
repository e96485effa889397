package fleet

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/recorded"
)

// specOf is what a client sends for a file.
func specOf(yaml string) (api.FleetSpec, error) {
	c, err := config.Parse("x.dstack.yml", []byte(yaml))
	if err != nil {
		return api.FleetSpec{}, err
	}
	return api.FleetSpec{Configuration: *c.Fleet, Profile: config.Profile{Name: "default"}}, nil
}

// refused are configurations that the original accepts and that we refuse when they are read.
var refused = map[string]string{
	"fleet-nodes-true": "a boolean is no number of nodes",
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
			spec, err := specOf(r.YAML)
			if why := refused[r.Case]; why != "" {
				if err == nil {
					t.Errorf("accepted, although %s", why)
				}
				return
			}
			if err != nil {
				t.Fatalf("refused when read: %v\n%s", err, r.YAML)
			}
			spec, err = normalise(spec)
			if diff := cmp.Diff(recorded.Text(r.Error), recorded.Message(err)); diff != "" {
				t.Fatalf("error (-recorded +got):\n%s\n%s", diff, r.YAML)
			}
			if err != nil {
				return
			}
			var want config.Fleet
			var profile config.Profile
			if err := errors.Join(json.Unmarshal(r.Out.Configuration, &want), json.Unmarshal(r.Out.Profile, &profile)); err != nil {
				t.Fatal(err)
			}
			for what, pair := range map[string][2]any{"configuration": {want, spec.Configuration}, "merged profile": {profile, spec.Merged()}} {
				if names, err := api.Differing(pair[0], pair[1]); names != nil || err != nil {
					t.Errorf("%s differs in %v, %v:\n%s", what, names, err, r.YAML)
				}
			}
		})
	})
}

func TestChangesRecorded(t *testing.T) {
	type row struct {
		Case, Current, New string
		Error              *string
	}
	recorded.Rows(t, "testdata/update.jsonl", func(t *testing.T, r row) {
		old, err1 := specOf(r.Current)
		now, err2 := specOf(r.New)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		_, _, err := changes(old.Configuration, now.Configuration)
		if diff := cmp.Diff(recorded.Text(r.Error), recorded.Message(err)); diff != "" {
			t.Errorf("%s: error (-recorded +got):\n%s", r.Case, diff)
		}
	})
}
