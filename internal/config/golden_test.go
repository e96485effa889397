package config

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden is the recorded behaviour of the original (see docs/architecture.md): every file
// of testdata/golden.tar.gz by name.
var golden = sync.OnceValues(func() (map[string][]byte, error) {
	f, err := os.Open("testdata/golden.tar.gz")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			if files[h.Name], err = io.ReadAll(tr); err != nil {
				return nil, err
			}
		}
	}
})

// goldenDir calls test for every NAME.yml below dir with its JSON.
func goldenDir(t *testing.T, dir string, test func(t *testing.T, name string, yml, want []byte)) {
	t.Helper()
	files, err := golden()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range sortedKeys(files) {
		name, ok := strings.CutSuffix(path, ".yml")
		if !ok || !strings.HasPrefix(name, dir+"/") {
			continue
		}
		n++
		t.Run(strings.TrimPrefix(name, dir+"/"), func(t *testing.T) { test(t, name, files[path], files[name+".json"]) })
	}
	if n == 0 {
		t.Fatalf("no cases in %s", dir)
	}
}

// rejected are cases that the original accepts and we refuse on purpose.
var rejected = map[string]string{
	"valid/410-fleet-blocks-true":                  "a boolean is no number of blocks",
	"valid/403-fleet-nodes-true":                   "a boolean is no number of nodes",
	"valid/382-service-groups-entrypoint-allowed":  "an entrypoint would silently drop the groups' commands",
	"valid/317-service-port-true":                  "a boolean is no port",
	"valid/352-service-replicas-true":              "a boolean is no number of replicas",
	"valid/355-service-scaling-negative-delays":    "delays are not negative",
	"valid/356-service-scaling-target-inf":         "infinity is no target",
	"valid/357-service-scaling-without-replicas":   "the original fails later with an internal error",
	"valid/250-task-durations-arabic-digits":       "durations have ASCII digits",
	"valid/274-task-max-price-inf":                 "infinity silently means no limit",
	"valid/272-task-max-price-true":                "a boolean is no price",
	"valid/157-task-nodes-true":                    "a boolean is no number of nodes",
	"valid/114-task-ports-true":                    "a boolean is no port",
	"valid/279-task-priority-false":                "a boolean is no priority",
	"valid/483-task-resources-gpu-negative":        "counts are not negative",
	"valid/216-task-resources-gpu-true":            "a boolean is no GPU name",
	"valid/217-task-resources-negative":            "counts and sizes are not negative",
	"valid/218-task-resources-range-bool":          "booleans are no counts",
	"valid/235-task-retry-negative-duration":       "durations are not negative",
	"valid/132-task-volumes-empty-name":            "a volume has a name",
	"valid/134-task-volumes-empty-name-list":       "a volume has a name",
	"valid/135-task-volumes-same-path-twice":       "two volumes cannot share a path",
	"valid/456-volume-region-number":               "a boolean is no size",
	"valid/453-volume-size-negative":               "sizes are not negative",
	"valid/023-task-docker-string-true-with-image": "docker: \"true\" means docker: true, which excludes image",
	"valid/024-task-docker-one-with-python":        "docker: 1 means docker: true, which excludes python",
}

// accepted are cases that the original refuses and we take on purpose.
var accepted = map[string]string{
	"invalid/288-task-backends-local":               "a built-in backend here",
	"invalid/634-bytes-tab-before-comment":          "YAML allows tabs between tokens",
	"invalid/636-bytes-tab-in-flow":                 "YAML allows tabs between tokens",
	"invalid/503-service-groups-dynamo-retry-false": "retry: false is no retry",
}

// different are cases whose normal form differs on purpose.
var different = map[string]string{
	"valid/148-task-repos-url-with-port-missplit":    "a URL keeps its port",
	"valid/200-task-resources-gpu-object-name-comma": "a list of names in a string is split",
}

func TestValid(t *testing.T) {
	goldenDir(t, "valid", func(t *testing.T, name string, yml, want []byte) {
		a, err := Parse(name, yml)
		if strings.Contains(string(yml), "type: preset") {
			if err == nil {
				t.Error("presets are not supported, but this one was accepted")
			}
			return
		}
		if why, ok := rejected[name]; ok {
			if err == nil {
				t.Errorf("accepted, although %s", why)
			}
			return
		}
		if err != nil {
			t.Fatalf("refused:\n%v\n%s", err, yml)
		}
		if different[name] != "" {
			return
		}
		compareJSON(t, a, want)
	})
}

func TestInvalid(t *testing.T) {
	goldenDir(t, "invalid", func(t *testing.T, name string, yml, want []byte) {
		a, err := Parse(name, yml)
		if why, ok := accepted[name]; ok {
			if err != nil {
				t.Errorf("refused, although %s: %v", why, err)
			}
			return
		}
		if err == nil {
			t.Fatalf("accepted:\n%s\nas %s\nthe original says %s", yml, mustJSON(t, a), want)
		}
		sameField(t, err, yml, want)
	})
}

func TestProfiles(t *testing.T) {
	goldenDir(t, "profiles/valid", func(t *testing.T, name string, yml, want []byte) {
		p, err := ParseProfiles(name, yml)
		if err != nil {
			t.Fatalf("refused: %v\n%s", err, yml)
		}
		compareJSON(t, p, want)
	})
	goldenDir(t, "profiles/invalid", func(t *testing.T, name string, yml, want []byte) {
		p, err := ParseProfiles(name, yml)
		if err == nil {
			t.Fatalf("accepted:\n%s\nas %+v\nthe original says %s", yml, p, want)
		}
		sameField(t, err, yml, want)
	})
}

// sameField checks that every problem has a place, and that one of them names a field that
// the original complains about, or one around or in it.
func sameField(t *testing.T, err error, yml, want []byte) {
	t.Helper()
	var errs *Errors
	if !errors.As(err, &errs) || len(errs.Problems) == 0 {
		t.Fatalf("%T is not *Errors", err)
	}
	for _, p := range errs.Problems {
		if p.File == "" || p.Line < 1 || p.Col < 1 || p.Msg == "" {
			t.Errorf("no place or text: %+v", p)
		}
	}
	var w struct {
		Errors []struct {
			Loc  []any
			Type string
		}
		Crash bool
	}
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	root, yamlErrs := parseYAML("x", yml)
	if yamlErrs != nil || w.Crash {
		return // there is no tree, or no complaint
	}
	for _, p := range errs.Problems {
		for _, o := range w.Errors {
			a, b := fieldPath(root, p.Loc, p.Type), fieldPath(root, o.Loc, o.Type)
			if strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/") {
				return
			}
		}
	}
	t.Errorf("we say\n%v\nthe original complains about other fields: %s", err, want)
}

// fieldPath is a location without the tags of unions: only what is in the document, and
// the key that is missing there.
func fieldPath(n *node, loc []any, typ string) string {
	path := ""
	for i, part := range loc {
		if v, ok := part.(float64); ok {
			part = int(v)
		}
		next := n.at(part)
		if next != nil || i == len(loc)-1 && typ == "missing" {
			path += fmt.Sprint("/", part)
		}
		if next != nil {
			n = next
		}
	}
	return path
}

// compareJSON compares what v becomes on the wire. Keys that the original's client leaves
// out when null may be there as null.
func compareJSON(t *testing.T, v any, want []byte) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var got, w any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	dropNulls(got, w)
	if diff := cmp.Diff(w, got); diff != "" {
		t.Errorf("normal form (-want +got):\n%s", diff)
	}
}

func dropNulls(got, want any) {
	switch g := got.(type) {
	case map[string]any:
		w, _ := want.(map[string]any)
		for k, v := range g {
			if _, ok := w[k]; !ok && v == nil {
				delete(g, k)
				continue
			}
			dropNulls(v, w[k])
		}
	case []any:
		w, _ := want.([]any)
		for i := range g {
			if i < len(w) {
				dropNulls(g[i], w[i])
			}
		}
	}
}
