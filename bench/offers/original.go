package main

import (
	"archive/zip"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
)

//go:embed original.py
var script string

// version is what the catalogs are published as.
const version = "20260803-1"

// measureOriginal publishes the catalogs on this machine as the original's are, and runs its
// library on them.
func measureOriginal(ctx context.Context, python string, files map[string][]byte, repeat int) (*result, error) {
	files = maps.Clone(files)
	files["cloudrift"] = []byte(header + "\n") // it has no known prices, and a catalog that is missing is told at length
	mux := http.NewServeMux()
	for provider, text := range files {
		archive, err := zipped(provider+".csv", text)
		if err != nil {
			return nil, err
		}
		mux.HandleFunc("/"+provider+"/version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, version) })
		mux.HandleFunc("/"+provider+"/"+version+"/catalog.zip", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(archive) // who hangs up notices
		})
	}
	srv := httptest.NewServer(mux)
	defer srv.Close()
	arguments := make([]map[string]any, len(questions))
	for i, q := range questions {
		arguments[i] = q.arguments
	}
	input, err := json.Marshal(map[string]any{"providers": slices.Sorted(maps.Keys(files)), "repeat": repeat, "queries": arguments})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, python, "-c", script)
	cmd.Env = append(os.Environ(), "GPUHUNT_CATALOG_URL="+srv.URL)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run the original: %w", err)
	}
	var r result
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, fmt.Errorf("read what the original measured: %w", err)
	}
	return &r, nil
}

func zipped(name string, text []byte) ([]byte, error) {
	var out bytes.Buffer
	zw := zip.NewWriter(&out)
	w, err := zw.Create(name)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
