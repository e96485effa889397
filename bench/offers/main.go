// Command offers compares our list of prices with the original's catalog library, on the same
// rows and machine: loading, memory and queries. The rows are the embedded ones, repeated in
// made-up regions until there are enough.
//
//	python3 -m venv bin/gpuhunt && bin/gpuhunt/bin/pip install gpuhunt==0.1.34
//	go run ./bench/offers -python bin/gpuhunt/bin/python
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"text/tabwriter"
)

func main() {
	python := flag.String("python", "", "a Python that has gpuhunt; empty: measure ours alone")
	rows := flag.Int("rows", 100_000, "rows of the catalogs")
	repeat := flag.Int("repeat", 200, "how often each question is asked; the original a tenth of that")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *python, *rows, *repeat); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, python string, rows, repeat int) error {
	files, err := catalogs(rows)
	if err != nil {
		return err
	}
	ours, err := measureOurs(files, repeat)
	if err != nil {
		return err
	}
	var theirs *result
	if python != "" {
		if theirs, err = measureOriginal(ctx, python, files, max(repeat/10, 3)); err != nil {
			return err
		}
	}
	return printTable(ours, theirs)
}

// result is what was measured of one side.
type result struct {
	Load    float64   `json:"load"`   // seconds from CSV files
	Memory  float64   `json:"memory"` // MB
	Queries []queried `json:"queries"`
	compact float64   // seconds from our own format
	rows    int
}

type queried struct {
	Seconds []float64 `json:"seconds"`
	Found   int       `json:"found"`
}

func printTable(ours, theirs *result) error {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d rows\tours\toriginal\tratio\n", ours.rows)
	line := func(name string, a float64, b func(*result) float64, unit string) {
		if theirs == nil {
			fmt.Fprintf(w, "%s\t%.4g %s\t-\t-\n", name, a, unit)
			return
		}
		fmt.Fprintf(w, "%s\t%.4g %s\t%.4g %s\t%.0f\n", name, a, unit, b(theirs), unit, b(theirs)/a)
	}
	line("load from CSV", ours.Load*1e3, func(r *result) float64 { return r.Load * 1e3 }, "ms")
	fmt.Fprintf(w, "load from our format\t%.4g ms\t-\t-\n", ours.compact*1e3)
	line("memory", ours.Memory, func(r *result) float64 { return r.Memory }, "MB")
	for i, q := range questions {
		mine := ours.Queries[i]
		line(fmt.Sprintf("%s (%d found), median", q.name, mine.Found), quantile(mine.Seconds, 0.5)*1e3,
			func(r *result) float64 { return quantile(r.Queries[i].Seconds, 0.5) * 1e3 }, "ms")
		fmt.Fprintf(w, "  slowest of a hundred\t%.4g ms\t\t\n", quantile(mine.Seconds, 0.99)*1e3)
		if theirs != nil && theirs.Queries[i].Found != mine.Found {
			return fmt.Errorf("%s: we find %d, the original %d", q.name, mine.Found, theirs.Queries[i].Found)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := out.WriteTo(os.Stdout)
	return err
}
