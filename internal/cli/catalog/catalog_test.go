package catalog_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
	Reason           string
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
