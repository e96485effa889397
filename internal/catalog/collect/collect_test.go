package collect

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/backend"
	"dstack/internal/backend/backendtest/openapi"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

// today is when tests collect.
var today = time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)

// answered are the doubles of providers: what they answer to "METHOD path?query", in the shapes
// that they document.
func answered(t *testing.T, provider string) http.Handler {
	t.Helper()
	data, err := os.ReadFile("testdata/answers.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	answers := all[provider]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Method + " " + r.URL.Path
		if r.URL.RawQuery != "" {
			key += "?" + r.URL.Query().Encode()
		}
		answer, ok := answers[key]
		if !ok {
			t.Errorf("%s is asked for %s", provider, key)
			http.Error(w, "what?", http.StatusNotFound)
			return
		}
		if provider == "cloudrift" {
			w.WriteHeader(http.StatusCreated)
		}
		_, _ = w.Write(answer)
	})
}

// inMemory is a transport to a handler, beneath that of all backends, in virtual time.
type inMemory struct{ handler http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, context.Cause(r.Context())
	}
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	m.handler.ServeHTTP(rec, in)
	if r.Context().Err() != nil { // the answer came too late
		return nil, context.Cause(r.Context())
	}
	return rec.Result(), nil
}

// credentials are everything that any provider asks for.
func credentials(name string) string {
	return map[string]string{
		"HOTAISLE_TEAM_HANDLE": "acme", "CRUSOE_PROJECT_ID": "project-1", "CRUSOE_SECRET_KEY": "c2VjcmV0",
		"DIGITAL_OCEAN_API_KEY": "key", "AMD_DEVELOPER_CLOUD_API_KEY": "key", "LAMBDA_API_KEY": "key", "VERDA_CLIENT_ID": "id",
		"VERDA_CLIENT_SECRET": "secret", "HOTAISLE_API_KEY": "key", "CRUSOE_ACCESS_KEY": "key", "JL_API_KEY": "key", "GCP_API_KEY": "key",
		"SEEWEB_API_TOKEN": "key", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
	}[name]
}

func settings(handler http.Handler, known *pricelist.List) Config {
	return Config{
		Transport: backend.NewTransport(backend.TransportConfig{Base: inMemory{handler}, Log: slog.New(slog.DiscardHandler), Version: "test"}),
		Env:       credentials, Known: known,
	}
}

func source(t *testing.T, name string) Source {
	t.Helper()
	i := slices.IndexFunc(Sources(), func(s Source) bool { return s.Name() == name })
	if i < 0 {
		t.Fatalf("there is no source %s", name)
	}
	return Sources()[i]
}

// small is a source that is content with the few rows of a test. TestExpectationsCanBeMet is about the whole.
func small(s Source) Source {
	e := &s.expect
	e.rows, e.spread, e.most, e.begins, e.counts, e.names = 0, nil, nil, nil, nil, 0
	if some, fewer := map[string][]string{"gcp": {"A100", "H100", "L4"}, "oci": {"V100", "A10", "A100"}, "verda": {"H100", "A100"}}[s.Name()]; fewer {
		e.gpus = some
	}
	if !s.Spot {
		e.regions = nil
	}
	return s
}

// listed are rows in short: name, region, CPUs, memory, disk, GPUs, price.
func listed(l *pricelist.List) []string {
	var lines []string
	for i := range l.Len() {
		r := l.Row(i)
		line := fmt.Sprintf("%s %s %d %s", r.Instance, r.Region, r.CPUs, gib(r.MemoryMiB))
		if r.DiskMiB > 0 {
			line += " disk=" + gib(r.DiskMiB)
		}
		if r.GPUs > 0 {
			line += fmt.Sprintf(" %s:%s:%d", r.GPU.Name, gib(r.GPU.MemoryMiB), r.GPUs)
		}
		if r.Arch != "x86" {
			line += " " + r.Arch
		}
		if r.Spot {
			line += " spot"
		}
		lines = append(lines, line+fmt.Sprintf(" $%g", r.Price))
	}
	slices.Sort(lines)
	return lines
}

func gib(mib int) string { return fmt.Sprintf("%gGB", float64(mib)/1024) }

// known is a list of what the program knows of some providers, at prices that are not these.
func known(t *testing.T) *pricelist.List {
	t.Helper()
	var b pricelist.Builder
	add := func(backend, instance, region string, cpus, gib, gpus int, gpu string, gpuGiB int, spot bool) {
		t.Helper()
		r := pricelist.Row{Backend: backend, Instance: instance, Region: region, CPUs: cpus, MemoryMiB: gib << 10, Arch: "x86", GPUs: gpus, Spot: spot, Price: 99, AsOf: "2026"}
		if gpus > 0 {
			vendor := "nvidia"
			if strings.HasPrefix(gpu, "v5") || strings.HasPrefix(gpu, "v2") {
				vendor = "google"
			}
			r.GPU = offer.GPU{Name: gpu, Vendor: vendor, MemoryMiB: gpuGiB << 10}
		}
		if err := b.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	add("oci", "VM.GPU3.1", "us-ashburn-1", 12, 90, 1, "V100", 16, false)
	add("oci", "VM.GPU3.1", "uk-london-1", 12, 90, 1, "V100", 16, false)
	add("azure", "Standard_D2s_v6", "eastus", 2, 8, 0, "", 0, false)
	add("azure", "Standard_NC24ads_A100_v4", "westeurope", 24, 220, 1, "A100", 80, false)
	add("azure", "Standard_NV36ads_A10_v5", "eastus", 36, 440, 1, "A10", 24, false)
	add("azure", "Standard_NC40ads_H100_v5", "eastus", 40, 320, 1, "H100NVL", 94, false)
	add("aws", "m5.large", "us-east-1", 2, 8, 0, "", 0, false)
	add("aws", "g6.xlarge", "us-east-1", 4, 16, 1, "L4", 24, false)
	add("gcp", "n2-standard-2", "us-central1", 2, 8, 0, "", 0, false)
	add("gcp", "n2-standard-2", "us-central1", 2, 8, 0, "", 0, true)
	add("gcp", "e2-medium", "us-central1", 2, 4, 0, "", 0, false)
	add("gcp", "g2-standard-4", "us-central1", 4, 16, 1, "L4", 24, false)
	add("gcp", "a2-ultragpu-1g", "us-central1", 12, 170, 1, "A100", 80, false)
	add("gcp", "a3-highgpu-8g", "us-central1", 208, 1872, 8, "H100", 80, false)
	add("gcp", "a4-highgpu-8g", "us-central1", 224, 3968, 8, "B200", 180, true)
	add("gcp", "v5litepod-4", "us-central1", 112, 192, 1, "v5litepod-4", 64, false)
	add("gcp", "a3-ultragpu-8g", "us-central1", 224, 2952, 8, "H200", 141, false)
	return b.List()
}

func TestCollect(t *testing.T) {
	for provider, tt := range map[string]struct {
		described bool // by the provider, as OpenAPI
		want      []string
		left      []string
	}{
		"vultr": {true, []string{
			"vbm-112c-2048gb-8-h100-gpu ord 224 2048GB disk=960GB H100:80GB:8 $23.92",
			"vbm-4c-32gb ams 8 32GB disk=240GB $0.164",
			"vc2-1c-1gb ams 1 1GB disk=25GB $0.007",
			"vc2-1c-1gb ewr 1 1GB disk=25GB $0.007",
			"vcg-a100-1c-6g-4vram ewr 1 6GB disk=70GB A100:4GB:1 $0.123",
			"vcg-a16-12c-128g-32vram ewr 12 128GB disk=700GB A16:16GB:2 $0.942",
		}, []string{"NVIDIA_X9", "vbm-1c-1gb-9-x9-gpu"}},
		"digitalocean": {true, []string{
			"gpu-6000adax1-48gb tor1 8 64GB disk=500GB RTX6000Ada:48GB:1 $1.57",
			"gpu-h100x8-640gb nyc2 160 1920GB disk=2046GB H100:80GB:8 $23.92",
			"s-1vcpu-512mb-10gb ams3 1 0.5GB disk=10GB $0.00595",
			"s-1vcpu-512mb-10gb nyc1 1 0.5GB disk=10GB $0.00595",
		}, nil},
		"amddevcloud": {false, []string{"gpu-mi300x8-1536gb atl1 160 1920GB disk=2046GB MI300X:192GB:8 $15.92"}, nil},
		"cloudrift": {true, []string{
			"rtx49-8c-nr.1 us-central-1 8 50GB disk=450GB RTX4090:24GB:1 $0.39",
			"rtx49-8c-nr.1 us-east-nc-nr-1 8 50GB disk=450GB RTX4090:24GB:1 $0.39",
		}, []string{"X 9"}},
		"hotaisle": {true, []string{"1x MI300X 13x Xeon Platinum 8470 us-michigan-1 13 224GB disk=12288GB MI300X:192GB:1 $1.99"}, nil},
		"crusoe": {true, []string{
			"a100-80gb-sxm-ib.8x us-east1-a 96 960GB disk=7500GB A100:80GB:8 $15.6",
			"c1a.4x us-east1-a 4 16GB $0.16",
		}, []string{"GB200-NVL-186GB"}},
		"lambda": {true, []string{
			"gpu_1x_a10 us-west-1 30 214.7998046875GB disk=1503.599609375GB A10:24GB:1 $1.29",
			"gpu_1x_h100_pcie us-west-1 26 214.7998046875GB disk=1074GB H100:80GB:1 $3.29",
			"gpu_8x_a100 us-west-1 124 1933.2001953125GB disk=6444GB A100:40GB:8 $15.92",
		}, nil},
		"verda": {true, []string{
			"1A100.22V FIN-01 22 120GB A100:80GB:1 $1.29",
			"1B300.30V FIN-01 30 275GB B300:270GB:1 $6.99",
			"1B300.30V FIN-01 30 275GB B300:270GB:1 spot $2.447",
			"1H100.80S.32V FIN-01 32 185GB H100:80GB:1 $2.29",
			"2H200.141S.88V FIN-01 88 370GB H200:141GB:2 $6.78",
			"2H200.141S.88V FIN-01 88 370GB H200:141GB:2 spot $2.373",
			"CPU.4V.16G FIN-01 4 16GB $0.0279",
			"CPU.4V.16G FIN-01 4 16GB spot $0.0098",
		}, []string{"AMD 7900XTX"}},
		"vastai": {true, []string{
			"16000001 ca-quebeccity 16 64GB disk=100GB RTX4090:24GB:1 $0.37",
			"16000001 ca-quebeccity 16 64GB disk=100GB RTX4090:24GB:1 spot $0.22",
			"16000002  96 1031GB disk=100GB A100:80GB:8 $8.5",
		}, []string{"X 9"}},
		"jarvislabs": {false, []string{
			"A100-1x europe-01 28 112GB A100:80GB:1 $1.49",
			"L4-1x india-noida-01 8 32GB L4:24GB:1 $0.44",
			"L4-2x india-noida-01 16 64GB L4:24GB:2 $0.88",
			"RTXPRO6000-1x europe-01 16 128GB RTXPRO6000:96GB:1 $1.89",
			"cpu-4x16 europe-01 4 16GB $0.0992",
		}, nil},
		"seeweb": {false, []string{
			"ECS1GPU it-fr2 8 32GB disk=500GB RTX6000:24GB:1 $0.29",
			"ECS1GPU3 it-fr2 16 120GB disk=500GB A100:80GB:1 $0.99",
			"ECS1GPU6 it-fr2 4 32GB disk=500GB L4:24GB:1 $0.38",
			"ECS1GPU7 it-fr2 8 32GB disk=500GB L40S:48GB:1 $0.85",
			"ECS1GPU8 it-fr2 16 256GB disk=500GB H100:80GB:1 $1.89",
			"ECS4GPU2 it-fr2 32 128GB disk=500GB A6000:48GB:4 $2.96",
			"ECS4GPU2 it-mi2 32 128GB disk=500GB A6000:48GB:4 $2.96",
		}, []string{"Grayskull"}},
		"oci": {false, []string{
			"BM.GPU.GB200.4 uk-london-1 144 960GB GB200:186GB:4 arm $24",
			"BM.GPU.GB200.4 us-ashburn-1 144 960GB GB200:186GB:4 arm $24",
			"BM.GPU.MI300X.8 uk-london-1 224 2048GB MI300X:192GB:8 $48",
			"BM.GPU.MI300X.8 us-ashburn-1 224 2048GB MI300X:192GB:8 $48",
			"BM.GPU.RTXPRO.8 uk-london-1 288 3072GB RTXPRO6000:96GB:8 $48",
			"BM.GPU.RTXPRO.8 us-ashburn-1 288 3072GB RTXPRO6000:96GB:8 $48",
			"BM.GPU4.8 uk-london-1 128 2048GB A100:40GB:8 $24.4",
			"BM.GPU4.8 us-ashburn-1 128 2048GB A100:40GB:8 $24.4",
			"BM.Standard.E4.128 uk-london-1 256 2048GB $6.272",
			"BM.Standard.E4.128 us-ashburn-1 256 2048GB $6.272",
			"VM.GPU.A10.1 uk-london-1 30 240GB A10:24GB:1 $2",
			"VM.GPU.A10.1 uk-london-1 30 240GB A10:24GB:1 spot $1",
			"VM.GPU.A10.1 us-ashburn-1 30 240GB A10:24GB:1 $2",
			"VM.GPU.A10.1 us-ashburn-1 30 240GB A10:24GB:1 spot $1",
			"VM.GPU3.1 uk-london-1 12 90GB V100:16GB:1 $2.95",
			"VM.GPU3.1 us-ashburn-1 12 90GB V100:16GB:1 $2.95",
		}, []string{"BM.Standard.Disk.1", "VM.Priceless.1"}},
	} {
		t.Run(provider, func(t *testing.T) {
			handler := answered(t, provider)
			if tt.described {
				handler = openapi.Load(t, "testdata/"+provider+".json.gz").Check(t, handler)
			}
			u, err := url.Parse(source(t, provider).base)
			if err != nil {
				t.Fatal(err)
			}
			handler = http.StripPrefix(u.Path, handler)
			known := known(t)
			synctest.Test(t, func(t *testing.T) {
				got, err := Collect(t.Context(), settings(handler, known), small(source(t, provider)), today)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, listed(got.List)); diff != "" {
					t.Errorf("the list differs (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.left, got.LeftOut.Names); diff != "" {
					t.Errorf("left out (-want +got):\n%s", diff)
				}
				if oldest, newest := got.List.Dates(); oldest != "2026-11-25" || newest != oldest {
					t.Errorf("prices are of %s to %s", oldest, newest)
				}
			})
		})
	}
}
