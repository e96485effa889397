package main

import (
	"fmt"
	"context"
	"testing"
	"os"
)

func TestZZ(t *testing.T) {
	ctx := context.Background()
	w, err := newWorld(os.Getenv("ZZ_DSTACK"))
	if err != nil { t.Fatal(err) }
	defer w.close()
	w.write("server/config.yml", "projects:\n  - name: main\n    backends: [{type: local}]\n")
	if err := w.profile(os.Getenv("ZZ_PROF")); err != nil { t.Fatal(err) }
	if _, err := w.start(ctx); err != nil { t.Fatal(err) }
	w.write("template.dstack.yml", "type: task\nname: template\nimage: job:1\ncommands: [\"true\"]\n"+resources)
	if _, err := w.must(ctx, "apply", "-y", "-d", "-f", "template.dstack.yml"); err != nil { t.Fatal(err) }
	if _, _, err := w.until(ctx, "template", "done", "failed"); err != nil { t.Fatal(err) }
	w.stop()
	if err := fillHistory(ctx, w.database(), storedRuns, storedRuns); err != nil { t.Fatal(err) }
	if _, err := w.start(ctx); err != nil { t.Fatal(err) }
	for _, n := range []int{1, 300, 300, 3000} {
		_, before, _ := usage(w.server.Process.Pid)
		took, err := w.times(ctx, n, "/api/runs/list", page)
		if err != nil { t.Fatal(err) }
		m, after, _ := usage(w.server.Process.Pid)
		fmt.Printf("%d pages: p50 %.2f ms p99 %.2f ms, cpu %.2f ms each, rss %.0f\n", n, median(took)*1e3, quantile(took, .99)*1e3, float64((after-before).Microseconds())/1e3/float64(n), m)
	}
	for _, n := range []int{300} {
		_, before, _ := usage(w.server.Process.Pid)
		took, err := w.times(ctx, n, "/api/project/main/runs/get_plan", plan)
		if err != nil { t.Fatal(err) }
		m, after, _ := usage(w.server.Process.Pid)
		fmt.Printf("%d plans: p50 %.2f ms p99 %.2f ms, cpu %.2f ms each, rss %.0f\n", n, median(took)*1e3, quantile(took, .99)*1e3, float64((after-before).Microseconds())/1e3/float64(n), m)
	}
	done := w.cpuProfile(ctx, "pages", 5e9)
	w.times(ctx, 2000, "/api/runs/list", page)
	<-done
}
