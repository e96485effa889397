package collect

import (
	"cmp"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"testing"

	"dstack/internal/backend"
)

// everyCredential are also those that lists can do without.
func everyCredential(t testing.TB) func(name string) string {
	key, err := os.ReadFile("testdata/oci-example-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	google := gcpKeyIn(t, t.TempDir(), "service_account", string(key))
	return func(name string) string {
		return cmp.Or(credentials(name), azureEnv(name), ociWith(string(key))(name), gcpWith(google)(name))
	}
}

// Whatever providers answer, a collection ends with a list in order or an error.
func FuzzAnswers(f *testing.F) {
	data, err := os.ReadFile("testdata/answers.json")
	if err != nil {
		f.Fatal(err)
	}
	var all map[string]map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		f.Fatal(err)
	}
	sources, env := Sources(), everyCredential(f)
	for i, s := range sources {
		for _, answer := range all[s.Provider] {
			f.Add(uint8(i), []byte(answer))
		}
	}
	f.Add(uint8(1), []byte(awsHead))
	f.Add(uint8(7), []byte(`{"access_token": "a", "skus": [`+gcpItem("Compute", "CPU", "OnDemand", "N2 Instance Core", 1)+`], "locations": [{"locationId": "us-central1-a"}],
		"items": {"zones/us-central1-a": {"machineTypes": [`+machine("n1-standard-1", 1, 3840, "")+`], "acceleratorTypes": [{"name": "nvidia-tesla-t4"}]}}, "acceleratorTypes": [{"type": "v5litepod-4"}]}`))
	f.Add(uint8(3), []byte(`{"access_token": "a", "value": [`+azureSKUs()[0]+`], "Items": [`+azurePrices()["eastus"]+`]}`))
	f.Fuzz(func(t *testing.T, n uint8, answer []byte) {
		s := sources[int(n)%len(sources)]
		if s.Provider == "lambda" { // whose backend has a fuzz test, and waits between requests
			return
		}
		asked := 0
		double := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked++; asked > 20 { // pages without end are another test
				w.WriteHeader(http.StatusForbidden)
				return
			}
			_, _ = w.Write(answer)
		})
		c := Config{
			Transport: backend.NewTransport(backend.TransportConfig{Base: inMemory{double}, Log: slog.New(slog.DiscardHandler), Version: "test"}),
			Env:       env, Known: known(t),
		}
		got, err := Collect(t.Context(), c, s, today)
		if (err == nil) != (got.List != nil) {
			t.Fatalf("%s: a list %v and an error %v", s.Provider, got.List, err)
		}
		if err == nil {
			if err := got.List.Encode(io.Discard); err != nil {
				t.Errorf("%s: %v", s.Provider, err)
			}
		}
	})
}
