package run

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/jobspec"
	"dstack/internal/jobspec/jobspectest"
	"dstack/internal/recorded"
)

func TestChangesRecorded(t *testing.T) {
	type row struct {
		Case, Current, New string
		Error              *string
	}
	recorded.Rows(t, "testdata/update.jsonl", func(t *testing.T, r row) {
		t.Run(r.Case, func(t *testing.T) {
			old, err1 := normalised(r.Current)
			now, err2 := normalised(r.New)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			_, err := changes(old, now)
			if diff := cmp.Diff(recorded.Text(r.Error), recorded.Message(err)); diff != "" {
				t.Errorf("error (-recorded +got):\n%s", diff)
			}
		})
	})
}

func normalised(yaml string) (api.RunSpec, error) {
	spec, err := jobspectest.Parse(yaml)
	if err != nil {
		return spec, err
	}
	return spec, jobspec.Limits{}.Normalise(&spec, "ssh-ed25519 AAAA")
}
