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
		"aws": awsSellsAll, "aws-spot": awsSpotSellsAll, "azure": azureSellsAll, "gcp": gcpSellsAll,
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
			})
		})
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
