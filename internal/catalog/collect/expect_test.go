package collect

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
)

// A list that is made with what the program knows of types can have no more than that: where a provider
// sells all of it everywhere, the list is what is expected of it.
func TestExpectationsCanBeMet(t *testing.T) {
	embedded, err := pricelist.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	composed := map[string][]string{"gcp": {"m4-ultramem-224"}} // what costs more than its parts
	for name, sells := range map[string]func(*testing.T, string, *pricelist.List) http.Handler{
		"aws": awsSellsAll, "aws-spot": awsSpotSellsAll, "azure": azureSellsAll, "cloudrift": cloudRiftSellsAll, "gcp": gcpSellsAll,
		"lambda": lambdaSellsAll, "oci": ociSellsAll, "runpod": runpodSellsAll, "verda": verdaSellsAll,
	} {
		t.Run(name, func(t *testing.T) {
			s := source(t, name)
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(today)) // signatures are dated
				c := settings(sells(t, s.Provider, embedded), embedded)
				c.Env = func(name string) string {
					if slices.Contains(s.Needs, name) {
						return credentials(name)
					}
					return ""
				}
				got, err := Collect(t.Context(), c, s, today)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(composed[name], got.LeftOut.Names); diff != "" {
					t.Errorf("left out (-want +got):\n%s", diff)
				}
				refusesParts(t, s.expect, got.List)
			})
		})
	}
}

// refusesParts holds that a list in which something is missing that is expected is refused.
func refusesParts(t *testing.T, e expectation, whole *pricelist.List) {
	t.Helper()
	refuses := func(e expectation, want string, keep func(pricelist.Row) bool) {
		t.Helper()
		var b pricelist.Builder
		for i := range whole.Len() {
			if r := whole.Row(i); keep(r) {
				if err := b.Add(r); err != nil {
					t.Fatal(err)
				}
			}
		}
		e.rows = 0 // what is left may be too short, whatever is in it
		if err := e.check(b.List()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, gpu := range e.gpus {
		refuses(e, "there is no "+gpu, func(r pricelist.Row) bool {
			tpu, _ := config.ParseTPU(r.GPU.Name)
			return r.GPUs == 0 || !slices.Contains([]string{r.GPU.Name, fmt.Sprintf("%s:%d", r.GPU.Name, r.GPU.MemoryMiB>>10), tpu.Version}, gpu)
		})
	}
	for _, region := range e.regions {
		refuses(e, "there is nothing in "+region, func(r pricelist.Row) bool { return r.Region != region })
	}
	if n := len(e.most); n > 0 {
		refuses(e, "there is nothing in "+e.most[0], func(r pricelist.Row) bool { return !slices.Contains(e.most[:(n+1)/2], r.Region) })
	}
	if e.names > 0 {
		part, first := e, ""
		part.gpus = nil
		refuses(part, fmt.Sprintf("there are GPUs of 1 names, fewer than %d", e.names), func(r pricelist.Row) bool {
			if first == "" {
				first = r.GPU.Name
			}
			return r.GPU.Name == first || r.GPUs == 0
		})
	}
	for _, count := range e.counts {
		refuses(e, fmt.Sprintf("there is nothing with %d GPUs", count), func(r pricelist.Row) bool { return r.GPUs != count })
	}
	for _, beginning := range e.begins {
		part := e
		part.gpus, part.counts, part.cpuOnly = nil, nil, false // those types may be the only ones that have them
		refuses(part, "there are no types "+beginning, func(r pricelist.Row) bool { return !strings.HasPrefix(r.Instance, beginning) })
	}
	for name, places := range e.spread {
		refuses(e, fmt.Sprintf("%s is in 0 places, fewer than %d", name, places), func(r pricelist.Row) bool { return r.Instance != name })
	}
	if e.cpuOnly {
		part := e
		part.begins, part.spread = nil, nil
		refuses(part, "there are no types without GPUs", func(r pricelist.Row) bool { return r.GPUs > 0 })
	}
	if e.spot {
		part := e
		part.gpus = nil // some are only spot
		refuses(part, "there are no prices of spot instances", func(r pricelist.Row) bool { return !r.Spot })
	}
}

// someRegions are where doubles sell what the program knows: there are more of them than any list is
// expected to have.
func someRegions(known []string) []string {
	var names []string
	for n := range 40 {
		names = append(names, fmt.Sprintf("elsewhere-%d", n))
	}
	return both(names, known)
}

func awsSellsAll(_ *testing.T, provider string, known *pricelist.List) http.Handler {
	regions := someRegions([]string{"us-east-1", "us-west-2-lax-1"})
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, awsHead)
		types := known.Types(provider)
		for _, name := range slices.Sorted(maps.Keys(types)) {
			for _, region := range regions {
				_, _ = io.WriteString(w, awsLine(name, region, "1", fmt.Sprint(types[name].CPUs), fmt.Sprintf("%g", float64(types[name].MemoryMiB)/1024), ""))
			}
		}
	})
}

func awsSpotSellsAll(t *testing.T, provider string, known *pricelist.List) http.Handler {
	var prices []string
	for name := range known.Types(provider) {
		prices = append(prices, name+"=1")
	}
	zones := map[string]map[string]string{}
	for _, region := range []string{"us-east-1", "us-west-2"} {
		zones[region] = map[string]string{region + "a": strings.Join(prices, " ")}
	}
	return ec2{t: t, zones: zones}
}

func azureSellsAll(_ *testing.T, provider string, known *pricelist.List) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		_, region, _ := strings.Cut(q.Get("$filter"), "armRegionName eq '")
		var items []string
		for name := range known.Types(provider) {
			items = append(items, azureItem(name, strings.Trim(region, "'"), 1), strings.Replace(azureItem(name, strings.Trim(region, "'"), 0.5), `"meterName": "`, `"meterName": "Spot `, 1))
		}
		if q.Get("$skip") != "0" {
			items = nil
		}
		fmt.Fprintf(w, `{"Items": [%s]}`, strings.Join(items, ","))
	})
}

func gcpSellsAll(_ *testing.T, provider string, known *pricelist.List) http.Handler {
	regions, err := json.Marshal(known.Regions(provider))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err != nil || strings.Contains(r.URL.Path, "E000-3F24-B8AA") {
			_, _ = io.WriteString(w, `{}`)
			return
		}
		var skus []string
		add := func(usage, family, group, description string) {
			skus = append(skus, strings.Replace(gcpItem(family, group, usage, description, 1), `["us-central1"]`, string(regions), 1))
		}
		for _, usage := range []string{"OnDemand", "Preemptible"} {
			prefix := map[string]string{"OnDemand": "", "Preemptible": "Spot Preemptible "}[usage]
			for _, family := range []string{"A2", "A3", "C4", "E2", "G2", "G4", "H3", "M4", "N1 Predefined", "N2", "N4", "A3Plus", "Memory-optimized"} {
				add(usage, "Compute", "CPU", prefix+family+" Instance Core running in Americas")
				add(usage, "Compute", "RAM", prefix+family+" Instance Ram running in Americas")
			}
			for _, gpu := range []string{
				"Tesla A100", "Tesla A100 80GB", "H100 80GB", "H100 80GB Mega", "L4", "Tesla K80", "Tesla P100", "Tesla P4", "Tesla T4", "Tesla V100",
			} {
				add(usage, "Compute", "GPU", prefix+"Nvidia "+gpu+" GPU running in Americas")
			}
			add(usage, "Compute", "GPU", prefix+"RTX 6000 96GB running in Americas")
			for _, version := range []string{"V2", "V2 Pod", "V3", "V3 Pod", "V4 Pod", "V5e", "V5p", "V6e"} {
				add(usage, "Compute", "TPU", "Tpu"+version+" "+prefix+"running in Americas")
			}
			add(usage, "Storage", "LocalSSD", "SSD backed Local Storage")
		}
		add("Preemptible", "Compute", "GPU", "Spot Preemptible A4 Nvidia B200 (1 gpu slice) running in Americas")
		fmt.Fprintf(w, `{"skus": [%s]}`, strings.Join(skus, ","))
	})
}

// lambdaSellsAll has each type in all regions, with what is left of its GPU's name and memory.
func lambdaSellsAll(t *testing.T, provider string, known *pricelist.List) http.Handler {
	types := map[string]any{}
	for name, r := range known.Types(provider) {
		if r.GPUs == 0 {
			continue // the backend has none of those
		}
		types[name] = map[string]any{"instance_type": map[string]any{
			"name": name, "description": fmt.Sprintf("%dx %s (%d GB SXM)", r.GPUs, r.GPU.Name, r.GPU.MemoryMiB>>10), "price_cents_per_hour": 100,
			"specs": map[string]int{"vcpus": r.CPUs, "memory_gib": r.MemoryMiB >> 10, "storage_gib": 100},
		}}
	}
	regions := []map[string]string{}
	for _, name := range known.Regions(provider) {
		regions = append(regions, map[string]string{"name": name})
	}
	return says(t, map[string]any{"/api/v1/instance-types": map[string]any{"data": types}, "/api/v1/regions": map[string]any{"data": regions}})
}

// says answers each path with a document.
func says(t *testing.T, answers map[string]any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		if err := json.NewEncoder(w).Encode(answer); err != nil || !ok {
			t.Errorf("asked for %s: %v", r.URL, err)
		}
	})
}

func verdaSellsAll(t *testing.T, provider string, known *pricelist.List) http.Handler {
	var types, locations []map[string]any
	for name, r := range known.Types(provider) {
		types = append(types, map[string]any{
			"instance_type": name, "price_per_hour": "1", "spot_price": "0.5", "cpu": map[string]int{"number_of_cores": r.CPUs},
			"memory":     map[string]int{"size_in_gigabytes": r.MemoryMiB >> 10},
			"gpu":        map[string]any{"description": fmt.Sprintf("%dx %s SXM %dGB", r.GPUs, r.GPU.Name, r.GPU.MemoryMiB>>10), "number_of_gpus": r.GPUs},
			"gpu_memory": map[string]int{"size_in_gigabytes": r.GPUs * r.GPU.MemoryMiB >> 10},
		})
	}
	for _, name := range known.Regions(provider) {
		locations = append(locations, map[string]any{"code": name})
	}
	return says(t, map[string]any{"/v1/oauth2/token": map[string]string{"access_token": "t"}, "/v1/instance-types": types, "/v1/locations": locations})
}

func ociSellsAll(t *testing.T, provider string, known *pricelist.List) http.Handler {
	var shapes []map[string]any
	word := func(value string) map[string]string { return map[string]string{"value": value} }
	types := known.Types(provider)
	types["VM.Standard2.1"] = pricelist.Row{CPUs: 2, MemoryMiB: 15 << 10} // the embedded list has none such
	for name, r := range types {
		sub, cores := "standard", r.CPUs/2
		if r.GPUs > 0 {
			sub = "gpu"
		}
		shapes = append(shapes, map[string]any{
			"name": name, "status": "ACTIVE", "shapeType": word(strings.ToLower(name[:2])), "subType": word(sub), "processorType": word("intel"),
			"allowPreemptible": true, "bundleMemoryQty": r.MemoryMiB >> 10, "gpuQty": r.GPUs, "gpuMemoryQty": r.GPUs * r.GPU.MemoryMiB >> 10,
			"products": []map[string]any{{"type": word("ocpu"), "partNumber": "B1", "qty": cores}},
		})
	}
	product := map[string]any{"partNumber": "B1", "billingModel": "UCM", "pricetype": "HOUR", "currencyCodeLocalizations": []map[string]any{
		{"currencyCode": "USD", "prices": []map[string]any{{"model": "PAY_AS_YOU_GO", "value": 1}}},
	}}
	const dir = "/a/ocom/docs/cloudestimator2/data/"
	return says(t, map[string]any{dir + "shapes.json": map[string]any{"items": shapes}, dir + "products.json": map[string]any{"items": []any{product}}})
}

// runpodSellsAll has kinds of GPUs by the names that Runpod has for them, in its places of which some are known.
func runpodSellsAll(t *testing.T, _ string, _ *pricelist.List) http.Handler {
	var gpus []map[string]any
	for id, gib := range map[string]int{
		"NVIDIA A100 80GB PCIe": 80, "NVIDIA A40": 48, "NVIDIA B200": 180, "NVIDIA GeForce RTX 4090": 24, "NVIDIA GeForce RTX 5090": 32,
		"NVIDIA H100 80GB HBM3": 80, "NVIDIA L4": 24, "NVIDIA L40S": 48, "NVIDIA A100 PCIe": 40,
	} {
		gpus = append(gpus, map[string]any{
			"id": id, "memoryInGb": gib, "maxGpuCount": 1, "securePrice": 1, "communityPrice": 1, "lowestPrice": map[string]any{"stockStatus": "High", "minVcpu": 8, "minMemory": 50},
		})
	}
	flavor := map[string]any{"id": "cpu3g", "minVcpu": 2, "maxVcpu": 4, "ramMultiplier": 4, "diskLimitPerVcpu": 10, "specifics": map[string]any{"stockStatus": "High", "securePrice": 0.08}}
	var centers []map[string]any
	for _, id := range []string{"CA-MTL-1", "CA-MTL-2", "CA-MTL-3", "EU-NL-1", "EU-RO-1", "EU-SE-1", "EUR-IS-1", "EUR-IS-2", "US-TX-3", "US-KS-2"} {
		centers = append(centers, map[string]any{"id": id, "listed": true})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data := map[string]any{"gpuTypes": gpus, "countryCodes": []string{"CA", "CZ", "FR", "US"}, "dataCenters": centers}
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), "cpuFlavors") {
			data = map[string]any{"cpuFlavors": []any{flavor}}
		}
		if err := json.NewEncoder(w).Encode(map[string]any{"data": data}); err != nil {
			t.Error(err)
		}
	})
}

func cloudRiftSellsAll(t *testing.T, _ string, _ *pricelist.List) http.Handler {
	var types []map[string]any
	for _, brand := range []string{"MI350X", "RTX 4090", "RTX 5090", "RTX PRO 6000"} {
		var variants []map[string]any
		for _, n := range []int{1, 2} {
			variants = append(variants, map[string]any{
				"name": fmt.Sprintf("%s.%d", brand, n), "nodes_per_dc": map[string]int{"us-central-1": 4}, "cost_per_hour": 39 * n, "cpu_count": 8 * n,
				"dram": 50 << 30, "disk": 400 << 30, "gpu_count": n,
			})
		}
		types = append(types, map[string]any{"brand_short": brand, "variants": variants})
	}
	return says(t, map[string]any{"/api/v1/instance-types/list": map[string]any{"data": map[string]any{"instance_types": types}}})
}
