package specdiff

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSpec(t *testing.T) {
	type m = map[string]any
	from := m{
		"repo_code_hash": "a", "file_archives": []any{},
		"configuration": m{"type": "service", "replicas": m{"min": 1, "max": nil}, "env": m{"A": "1"}, "image": nil},
		"profile":       m{"max_price": nil},
	}
	to := m{
		"repo_code_hash": "b", "file_archives": []any{m{"id": "x"}},
		"configuration": m{"type": "service", "replicas": m{"min": 2}, "env": m{"A": "2"}},
		"profile":       m{"max_price": 1.5},
	}
	items, err := Spec(from, to)
	if err != nil {
		t.Fatal(err)
	}
	want := `- Configuration properties:
  - env
  - replicas
- File archives
- Profile properties:
  - max_price
- Repo files
`
	if diff := cmp.Diff(want, Text(items)); diff != "" {
		t.Errorf("Spec (-want +got):\n%s", diff)
	}
	if items, err := Spec(from, from); err != nil || len(items) != 0 {
		t.Errorf("Spec of equals = %v, %v, want nothing", items, err)
	}
	items, err = Spec(m{"configuration": m{"type": "task"}, "profile": nil}, m{"configuration": m{"type": "service"}, "profile": m{"name": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("- Configuration type\n- Profile\n", Text(items)); diff != "" {
		t.Errorf("Spec of other types (-want +got):\n%s", diff)
	}
}
