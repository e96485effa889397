package catalog_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/backend"
	"dstack/internal/catalog/collect"
	"dstack/internal/cli/catalog"
	"dstack/internal/cli/offer"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// vultr is a double of the only provider that the tests ask. Its prices can be bad.
type vultr struct{ price string }

func (v *vultr) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "metal") {
		fmt.Fprint(w, `{}`)
		return
	}
	fmt.Fprintf(w, `{"plans": [{"id": "vc2-1c-1gb", "vcpu_count": 1, "ram": 1024, "disk": 25, "hourly_cost": 0.007, "type": "vc2", "locations": ["ewr"]},
		{"id": "vcg-a100", "vcpu_count": 12, "ram": 122880, "disk": 1400, "hourly_cost": %s, "type": "vcg", "gpu_type": "NVIDIA_A100", "gpu_vram_gb": 80, "locations": ["ewr"]},
		{"id": "vcg-x9", "vcpu_count": 12, "ram": 122880, "disk": 1400, "hourly_cost": 1, "type": "vcg", "gpu_type": "NVIDIA_X9", "gpu_vram_gb": 80, "locations": ["ewr"]}]}`, v.price)
}

// client is one user's machine, on which commands run.
type client struct {
	t    *testing.T
	home string
	env  map[string]string
}

func (c client) run(command string, args ...string) (out, said string, err error) {
	c.t.Helper()
	var stdout, stderr bytes.Buffer
	streams := term.New(strings.NewReader(""), &stdout, &stderr)
	streams.Getenv = func(name string) string { return c.env[name] }
	p := &program.Program{IO: streams, Home: c.home, Version: "test", Getwd: func() (string, error) { return c.home, nil },
		Now: func() time.Time { return time.Date(2099, 11, 25, 18, 0, 0, 0, time.UTC) }}
	cmd := catalog.New(p)
	if command == "offer" {
		cmd = offer.New(p)
	}
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(c.t.Context())
	return stdout.String(), stderr.String(), err
}

// outcome is what --json says of a provider.
type outcome struct {
	Provider, Status string
	Rows             int
	AsOf             string   `json:"as_of"`
	LeftOut          []string `json:"left_out"`
	More             int      `json:"left_out_more"`
	Free             int
	Reason, Hint     string
}

func TestRefresh(t *testing.T) {
	double := &vultr{price: "2.397"}
	srv := httptest.NewServer(double)
	defer srv.Close()
	c := client{t, t.TempDir(), map[string]string{"DSTACK_ENDPOINT_VULTR": srv.URL, "COLUMNS": "120"}}

	out, _, err := c.run("catalog", "refresh", "--provider", "vultr", "--provider", "Vultr", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got []outcome
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	want := []outcome{{Provider: "vultr", Status: "refreshed", Rows: 2, AsOf: "2099-11-25", LeftOut: []string{"NVIDIA_X9"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("refresh (-want +got):\n%s", diff)
	}
	out, said, err := c.run("offer", "--catalog", "--gpu", "A100:1", "--backend", "vultr")
	if err != nil || said != "" {
		t.Fatalf("%v, said %q", err, said)
	}
	for _, want := range []string{"embedded and refreshed (vultr)", "vcg-a100", "$2.397", "2099-11-25"} {
		if !strings.Contains(out, want) {
			t.Errorf("the offers lack %q:\n%s", want, out)
		}
	}

	double.price = "-1"
	out, _, err = c.run("catalog", "refresh", "--provider", "vultr")
	if err == nil || err.Error() != "the prices of 1 of 1 providers could not be collected; those before stay" {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"failed", "2099-11-25", "row 2", "price: -1 is not 0.0001 to 100000"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("the table lacks %q:\n%s", want, out)
		}
	}
	if out, _, err = c.run("offer", "--catalog", "--gpu", "A100:1", "--backend", "vultr"); err != nil || !strings.Contains(out, "$2.397") {
		t.Errorf("the last good prices are gone: %v\n%s", err, out)
	}
}

// awsFile is what AWS publishes, with more types than anybody knows and a price of nothing.
func awsFile() string {
	var b strings.Builder
	b.WriteString("1\n2\n3\n4\n5\n" + `TermType,Unit,PricePerUnit,Currency,Instance Type,vCPU,Memory,Tenancy,Operating System,Pre Installed S/W,CapacityStatus,MarketOption,Region Code` + "\n")
	row := func(price, instance, cpus, memory, region string) {
		fmt.Fprintf(&b, "OnDemand,Hrs,%s,USD,%s,%s,%s GiB,Shared,Linux,NA,Used,OnDemand,%s\n", price, instance, cpus, memory, region)
	}
	for _, gpus := range []string{"p5.48xlarge", "p4d.24xlarge", "g5.xlarge", "g4dn.xlarge", "g6e.xlarge", "g6.xlarge", "g7.2xlarge", "g7e.2xlarge"} {
		row("5", gpus, "4", "16", "us-east-1")
	}
	for n := range 1000 {
		row("0.1", "m5.large", "2", "8", fmt.Sprintf("region-%d", n))
	}
	row("0.1", "m5.large", "2", "8", "us-west-2-lax-1")
	row("0", "m5.xlarge", "4", "16", "us-east-1")
	for n := range 107 {
		row("0.1", fmt.Sprintf("x%03d.large", n), "2", "8", "us-east-1")
	}
	return b.String()
}

// What is left out of a list is said: up to a limit by name, and how much more there is.
func TestRefreshSaysWhatIsLeftOut(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, awsFile()) }))
	defer srv.Close()
	c := client{t, t.TempDir(), map[string]string{"DSTACK_ENDPOINT_AWS": srv.URL, "COLUMNS": "200"}}
	out, _, err := c.run("catalog", "refresh", "--provider", "aws", "--json")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got []outcome
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Hint != "for more of it set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" || got[0].Rows != 1009 || len(got[0].LeftOut) != 100 || got[0].LeftOut[0] != "x000.large" || got[0].More != 7 || got[0].Free != 1 {
		t.Errorf("got %+v", got)
	}
	out, _, err = c.run("catalog", "refresh", "--provider", "aws")
	const want = "not known, left out: x000.large, x001.large, x002.large, x003.large, x004.large and 102 more; rows without a price: 1; for more of it set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
	if err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
		t.Errorf("%v, the table lacks %q:\n%s", err, want, out)
	}
}

func TestRefreshWhat(t *testing.T) {
	c := client{t, t.TempDir(), nil}
	if _, _, err := c.run("catalog", "refresh", "--provider", "acme"); err == nil || !strings.HasPrefix(err.Error(), `there is no provider "acme": use one of amddevcloud, aws, aws-spot, azure`) {
		t.Errorf("%v", err)
	}
	out, _, err := c.run("catalog", "refresh", "--provider", "verda", "--json")
	var got []outcome
	if jsonErr := json.Unmarshal([]byte(out), &got); err == nil || jsonErr != nil || len(got) != 1 {
		t.Fatalf("%v, %v: %s", err, jsonErr, out)
	}
	if got[0].Status != "failed" || got[0].Reason != "collect the prices of verda: set VERDA_CLIENT_ID and VERDA_CLIENT_SECRET" || got[0].Rows == 0 {
		t.Errorf("%+v, want a failure, and that the embedded prices stay", got[0])
	}
}

// Where catalogs are published there need not be one of each provider.
func TestRefreshFromPublished(t *testing.T) {
	page := "<html>\n\n" + strings.Repeat("<p>not here</p>\n", 100)
	some := map[string]string{}
	var busy atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer busy.Add(-1)
		if busy.Add(1) > 1 {
			t.Error("two catalogs are taken at a time")
		}
		if text, ok := some[r.URL.Path]; ok {
			fmt.Fprint(w, text)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, page)
	}))
	defer srv.Close()
	c := client{t, t.TempDir(), map[string]string{"GPUHUNT_CATALOG_URL": srv.URL, "COLUMNS": "200"}}
	refresh := func(args ...string) (map[string]outcome, error) {
		out, _, err := c.run("catalog", append([]string{"refresh", "--json"}, args...)...)
		var list []outcome
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		by := map[string]outcome{}
		for _, o := range list {
			by[o.Provider] = o
		}
		return by, err
	}
	got, err := refresh()
	if err == nil || err.Error() != "there are no catalogs at GPUHUNT_CATALOG_URL="+srv.URL || got["vultr"].Status != "skipped" {
		t.Errorf("%v, vultr: %+v", err, got["vultr"])
	}
	some["/vultr/version"] = "20260101-1" // and no archive
	got, err = refresh()
	if err == nil || got["aws"].Status != "skipped" || got["aws"].Reason != "it is not published" || got["vultr"].Status != "failed" {
		t.Errorf("%v, aws: %+v, vultr: %+v", err, got["aws"], got["vultr"])
	}
	got, err = refresh("--provider", "aws")
	if err == nil || got["aws"].Status != "failed" {
		t.Errorf("%v, a provider that is named: %+v", err, got["aws"])
	}
	if reason := got["aws"].Reason; len(reason) > 250 || strings.Contains(reason, "\n") || !strings.Contains(reason, "<html> <p>not here</p>") {
		t.Errorf("the reason is not a short line: %q", reason)
	}
}

// A published list that is older than the one that comes with the program is not used, and that is said.
func TestRefreshFromOlder(t *testing.T) {
	var archive bytes.Buffer
	zw := zip.NewWriter(&archive)
	f, err := zw.Create("lambdalabs.csv")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot")
	for _, region := range []string{"asia-south-1", "europe-central-1", "me-west-1", "us-east-1", "us-midwest-1", "us-south-2", "us-west-1", "us-west-2"} {
		fmt.Fprintf(f, "a,%[1]s,1,4,16,1,A10,24,False\nb,%[1]s,1,4,16,1,A100,40,False\nc,%[1]s,1,4,16,1,H100,80,False\n", region)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]outcome{
		"20200101-1": {Status: "older", Rows: 391, AsOf: "2026", Reason: "those that are published are of 2020-01-01, older than these, which stay in use"},
		"20991101-1": {Status: "refreshed", Rows: 3 * 8, AsOf: "2099-11-01"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "version") {
				fmt.Fprint(w, version)
				return
			}
			_, _ = w.Write(archive.Bytes())
		}))
		c := client{t, t.TempDir(), map[string]string{"GPUHUNT_CATALOG_URL": srv.URL}}
		out, _, err := c.run("catalog", "refresh", "--provider", "lambda", "--json")
		srv.Close()
		var got []outcome
		if err := errors.Join(err, json.Unmarshal([]byte(out), &got)); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want.Provider, want.LeftOut = "lambda", []string{}
		if diff := cmp.Diff([]outcome{want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", version, diff)
		}
	}
}

// Whoever has credentials of a user for other programs has not asked for GCP's prices with them.
func TestRefreshWithCredentialsOfAnotherKind(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "adc.json")
	if err := os.WriteFile(file, []byte(`{"type": "authorized_user", "client_id": "1", "client_secret": "x", "refresh_token": "y"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": file}
	for _, s := range collect.Sources() {
		env[backend.EndpointVariable(s.Provider)] = srv.URL
	}
	c := client{t, t.TempDir(), env}
	for want, args := range map[string][]string{"skipped": {"refresh", "--json"}, "failed": {"refresh", "--json", "--provider", "gcp"}} {
		out, _, err := c.run("catalog", args...)
		var got []outcome
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(got, func(o outcome) bool { return o.Provider == "gcp" })
		if i < 0 || got[i].Status != want || !strings.HasSuffix(got[i].Reason, "GOOGLE_APPLICATION_CREDENTIALS: no list can be asked for with these credentials: it is not the key of a service account") {
			t.Errorf("%v: %+v, want %s", args, got, want)
		}
		if want == "failed" && err == nil {
			t.Error("a provider that was named failed without an error")
		}
	}
}
