// Command fake stands in for NVIDIA's programs on hosts without GPUs, by the name under which it
// is started: nvidia-smi, dcgmi and dcgm-exporter. What they say lies in files beside it.
package main

import (
	"context"
	"encoding/csv"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dstack/internal/agent/dcgm/dcgmtest"
)

func main() {
	self, err := os.Executable()
	if err != nil {
		fail(err)
	}
	dir := filepath.Dir(self)
	switch filepath.Base(self) {
	case "nvidia-smi":
		smi(dir, os.Args[1:])
	case "dcgmi":
		dcgmi(dir, os.Args[1:])
	case "dcgm-exporter":
		exporter(dir, os.Args[1:])
	default:
		fail(fmt.Errorf("%s stands in for nothing", self))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// smi lists the GPUs, or how much each is used.
func smi(dir string, args []string) {
	list, err := os.ReadFile(filepath.Join(dir, dcgmtest.GPUsFile))
	if err != nil {
		fail(err)
	}
	for line := range strings.Lines(string(list)) {
		if len(args) > 0 && strings.HasPrefix(args[0], "--query-gpu=memory.used") {
			line = "1024, 50\n"
		}
		fmt.Print(line)
	}
}

// dcgmi gives a report once watches are set, as long as there is one: else no engine answers.
func dcgmi(dir string, args []string) {
	report, err := os.ReadFile(filepath.Join(dir, dcgmtest.HealthFile))
	if err != nil {
		fmt.Println("Error: unable to establish a connection to the specified host: localhost")
		fmt.Println("Error: Unable to connect to host engine. Host engine connection invalid/disconnected.")
		os.Exit(211)
	}
	watches := filepath.Join(dir, "watches")
	_, err = os.Stat(watches)
	switch {
	case slices.Equal(args, []string{"health", "--set", "a"}):
		if err := os.WriteFile(watches, nil, 0o644); err != nil {
			fail(err)
		}
		fmt.Println("Health monitor systems set successfully.")
	case !slices.Equal(args, []string{"health", "--check", "--json"}):
		fail(fmt.Errorf("dcgmi does not know %q", args))
	case err != nil:
		fmt.Println("Error: Health watches not enabled. Please enable watches. ")
		os.Exit(255)
	default:
		os.Stdout.Write(report)
	}
}

// exporter serves the metrics that lie in a file, until it is told to end.
func exporter(dir string, args []string) {
	f := flag.NewFlagSet("dcgm-exporter", flag.ExitOnError)
	version := f.Bool("v", false, "")
	counters, address, interval := f.String("f", "", ""), f.String("a", ":9400", ""), f.Int("c", 30000, "")
	f.String("r", "", "")
	_ = f.Parse(args) // it exits
	if *version {
		fmt.Println("DCGM Exporter version 4.2.3-4.1.3")
		return
	}
	file, err := os.Open(*counters)
	if err != nil {
		fail(err)
	}
	rows := csv.NewReader(file)
	rows.Comment, rows.FieldsPerRecord, rows.TrimLeadingSpace = '#', 3, true
	if _, err := rows.ReadAll(); err != nil {
		fail(err)
	}
	if *interval < 100 {
		fail(fmt.Errorf("an interval of %d ms is too short", *interval))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	srv := &http.Server{Addr: *address, ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(dir, dcgmtest.MetricsFile))
	})}
	context.AfterFunc(ctx, func() { srv.Close() })
	if err := srv.ListenAndServe(); ctx.Err() == nil {
		fail(err)
	}
}
