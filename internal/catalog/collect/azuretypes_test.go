package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/catalog/pricelist"
)

// azureEnv are the credentials of an application, of which the secret is never shown.
func azureEnv(name string) string {
	return map[string]string{
		"AZURE_SUBSCRIPTION_ID": "sub-1", "AZURE_TENANT_ID": "tenant-1", "AZURE_CLIENT_ID": "client-1", "AZURE_CLIENT_SECRET": "azure secret+1",
	}[name]
}

// sku is one of the things that a subscription is told of, "name=value" being its capabilities.
func sku(name, location string, capabilities ...string) string {
	type pair struct{ Name, Value string }
	s := struct {
		Kind         string   `json:"resourceType"`
		Name         string   `json:"name"`
		Locations    []string `json:"locations"`
		Capabilities []pair   `json:"capabilities"`
		Restrictions []string `json:"restrictions"`
	}{"virtualMachines", name, []string{location}, nil, []string{}}
	for _, c := range capabilities {
		k, v, _ := strings.Cut(c, "=")
		s.Capabilities = append(s.Capabilities, pair{k, v})
	}
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // it is a text
	}
	return string(data)
}

// azureDouble is a double of the prices, the login and the management of Azure.
type azureDouble struct {
	t             *testing.T
	prices        map[string]string // by region
	skus          []string          // pages
	login, manage http.HandlerFunc  // instead
}

func (a *azureDouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Host {
	case "prices.azure.com":
		if r.Header.Get("Authorization") != "" {
			a.t.Error("public prices are asked for with credentials")
		}
		_, region, _ := strings.Cut(r.URL.Query().Get("$filter"), "armRegionName eq '")
		items := a.prices[strings.TrimSuffix(region, "'")]
		if r.URL.Query().Get("$skip") != "0" {
			items = ""
		}
		fmt.Fprintf(w, `{"Items": [%s]}`, items)
	case "login.microsoftonline.com":
		if a.login != nil {
			a.login(w, r)
			return
		}
		want := map[string]string{"grant_type": "client_credentials", "client_id": "client-1", "client_secret": "azure secret+1", "scope": "https://management.azure.com/.default"}
		for k, v := range want {
			if r.PostFormValue(k) != v {
				a.t.Errorf("%s is %q, want %q", k, r.PostFormValue(k), v)
			}
		}
		if r.URL.Path != "/tenant-1/oauth2/v2.0/token" || r.Method != http.MethodPost {
			a.t.Errorf("asked for %s %s", r.Method, r.URL)
		}
		_, _ = io.WriteString(w, `{"token_type": "Bearer", "expires_in": 3599, "access_token": "token.of.an.hour"}`)
	case "management.azure.com":
		if r.Header.Get("Authorization") != "Bearer token.of.an.hour" || r.URL.Path != "/subscriptions/sub-1/providers/Microsoft.Compute/skus" || r.URL.Query().Get("api-version") != "2021-07-01" {
			a.t.Errorf("asked for %s, %q", r.URL, r.Header.Get("Authorization"))
		}
		if a.manage != nil {
			a.manage(w, r)
			return
		}
		page, next := 0, "null"
		_, _ = fmt.Sscan(r.URL.Query().Get("page"), &page)
		if page+1 < len(a.skus) {
			next = fmt.Sprintf(`"https://management.azure.com:443/subscriptions/sub-1/providers/Microsoft.Compute/skus?api-version=2021-07-01&page=%d"`, page+1)
		}
		fmt.Fprintf(w, `{"more": {"a": [1, {}]}, "value": [%s], "nextLink": %s}`, a.skus[page], next)
	default:
		a.t.Errorf("asked for %s", r.URL)
	}
}

func (a *azureDouble) collect(t *testing.T, env func(string) string) (got Collection, err error) {
	t.Helper()
	k := known(t)
	synctest.Test(t, func(t *testing.T) {
		a.t = t
		c := settings(a, k)
		c.Env = env
		s := small(source(t, "azure"))
		s.expect.gpus, s.expect.spot = nil, false
		got, err = Collect(t.Context(), c, s, today)
	})
	return got, err
}

func azureItem(sku, region string, usd float64) string {
	return fmt.Sprintf(`{"currencyCode": "USD", "armSkuName": %q, "armRegionName": %q, "meterName": %q, "retailPrice": %g, "unitOfMeasure": "1 Hour",
		"productName": "Virtual Machines", "effectiveStartDate": "2024-01-01T00:00:00Z"}`, sku, region, sku, usd)
}

func azurePrices() map[string]string {
	return map[string]string{
		"eastus": strings.Join([]string{
			azureItem("Standard_D2s_v6", "eastus", 0.1), azureItem("Standard_D2ps_v6", "eastus", 0.08), azureItem("Standard_E4-2s_v4", "eastus", 0.25),
			azureItem("Standard_NV6ads_A10_v5", "eastus", 0.45), azureItem("Standard_NV8as_v4", "eastus", 0.47), azureItem("Standard_ND96isr_H100_v5", "eastus", 98),
			azureItem("Standard_NC40ads_H100_v5", "eastus", 6.98), azureItem("Standard_NP10s", "eastus", 1.65), azureItem("Standard_NX9s_v9", "eastus", 9),
			azureItem("Standard_D2", "eastus", 0.1), azureItem("Standard_Odd_v6", "eastus", 0.1), azureItem("Standard_F2_v9", "eastus", -1), azureItem("Standard_Z1", "eastus", 1),
		}, ","),
		"newregion": azureItem("Standard_D2s_v6", "newregion", 0.2) + "," + azureItem("Standard_E4-2s_v4", "newregion", 0.26),
	}
}

func azureSKUs() []string {
	return []string{
		strings.Join([]string{
			`{"resourceType": "disks", "name": "Premium_LRS", "locations": ["nowhere"], "capabilities": [{"name": "MaxSizeGiB", "value": "4"}]}`,
			sku("Standard_D2s_v6", "EastUS", "vCPUs=2", "MemoryGB=8", "CpuArchitectureType=x64"), sku("Standard_D2s_v6", "newregion", "vCPUs=2", "MemoryGB=8"),
			sku("Standard_D2ps_v6", "eastus", "vCPUs=2", "MemoryGB=8", "CpuArchitectureType=Arm64"), sku("Standard_E4-2s_v4", "eastus", "vCPUs=4", "vCPUsAvailable=2", "MemoryGB=32"),
			sku("Standard_NV6ads_A10_v5", "eastus", "vCPUs=6", "MemoryGB=55", "GPUs=1"), sku("Standard_NV8as_v4", "eastus", "vCPUs=8", "MemoryGB=28", "GPUs=1"),
			sku("Standard_NP10s", "eastus", "vCPUs=10", "MemoryGB=168"), sku("Standard_NX9s_v9", "eastus", "vCPUs=9", "MemoryGB=90", "GPUs=9"),
		}, ","),
		strings.Join([]string{
			sku("Standard_ND96isr_H100_v5", "eastus", "vCPUs=96", "MemoryGB=1900", "GPUs=8"), sku("Standard_NC40ads_H100_v5", "eastus", "vCPUs=0"),
			sku("Standard_D2", "eastus", "vCPUs=2", "MemoryGB=7"), sku("Standard_Odd_v6", "eastus", "vCPUs=2"), sku("Standard_F2_v9", "eastus", "vCPUs=2", "MemoryGB=4"),
			sku("Standard_F4_v9", "a'b", "vCPUs=2", "MemoryGB=4"), sku("a' or 'b", "eastus", "vCPUs=2", "MemoryGB=4"),
		}, ","),
	}
}

// With credentials, the subscription says which types and regions there are; without, those are listed that
// the program knows.
func TestAzureTypes(t *testing.T) {
	a := &azureDouble{prices: azurePrices(), skus: azureSKUs()}
	got, err := a.collect(t, func(name string) string { // one is missing
		if name == azureSecret {
			return ""
		}
		return azureEnv(name)
	})
	if err != nil || got.NoAccount != nil {
		t.Fatal(err, got.NoAccount)
	}
	public := []string{"Standard_D2s_v6 eastus 2 8GB $0.1", "Standard_NC40ads_H100_v5 eastus 40 320GB H100NVL:94GB:1 $6.98"}
	if diff := cmp.Diff(public, listed(got.List)); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	got, err = a.collect(t, azureEnv)
	if err != nil || got.NoAccount != nil {
		t.Fatal(err, got.NoAccount)
	}
	want := append(slices.Clone(public),
		"Standard_D2ps_v6 eastus 2 8GB arm $0.08",
		"Standard_D2s_v6 newregion 2 8GB $0.2",
		"Standard_E4-2s_v4 eastus 2 32GB $0.25",
		"Standard_E4-2s_v4 newregion 2 32GB $0.26",
		"Standard_ND96isr_H100_v5 eastus 96 1900GB H100:80GB:8 $98",
		"Standard_NV6ads_A10_v5 eastus 6 55GB A10:4GB:1 $0.45",
		"Standard_NV8as_v4 eastus 8 28GB MI25:4GB:1 $0.47",
	)
	slices.Sort(want)
	if diff := cmp.Diff(want, listed(got.List)); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	left := []string{"Standard_D2", "Standard_F2_v9", "Standard_NP10s", "Standard_NX9s_v9", "Standard_Odd_v6", "Standard_Z1"}
	if diff := cmp.Diff(left, got.LeftOut.Names); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	for i := range got.List.Len() {
		if r := got.List.Row(i); r.GPU.Name == "MI25" && r.GPU.Vendor != "amd" {
			t.Errorf("%s is made by %s", r.GPU.Name, r.GPU.Vendor)
		}
	}
}

// GPUs are in the names of types, parts of them too (catalog 8.2).
func TestAzureGPUs(t *testing.T) {
	for name, want := range map[string]string{
		"Standard_NC24ads_A100_v4": "A100:80", "Standard_NC8ads_A10_v4": "A10:12", "Standard_NC32ads_A10_v4": "A10:24", "Standard_NC64as_T4_v3": "T4:16",
		"Standard_NC24rs_v3": "V100:16", "Standard_NC6s_v3": "V100:16", "Standard_NC80adis_H100_v5": "H100NVL:94", "Standard_ND96amsr_A100_v4": "A100:80",
		"Standard_ND96asr_v4": "A100:40", "Standard_ND40rs_v2": "V100:32", "Standard_ND96isr_H200_v5": "H200:141", "Standard_ND96is_MI300X_v5": "MI300X:192",
		"Standard_NV36adms_A10_v5": "A10:24", "Standard_NV72ads_A10_v5": "A10:24", "Standard_NV18ads_A10_v5": "A10:12", "Standard_NG16ads_V620_v1": "V620:16",
		"Standard_NV4as_v4": "MI25:2", "Standard_NV12s_v3": "M60:8", "Standard_NC24ads_A100_v4_x": "", "Standard_ND96isr_X9_v5": "", "NC24ads_A100_v4 ": "",
	} {
		gpu, ok := new(tray).azureGPU(name)
		got := ""
		if ok {
			got = fmt.Sprintf("%s:%g", gpu.Name, float64(gpu.MemoryMiB)/1024)
		}
		if got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
}

// Series that are not sold any more are not taken from a subscription, their successors are.
func TestAzureRetired(t *testing.T) {
	for name, want := range map[string]bool{
		"Basic_A1": true, "Standard_A4": true, "Standard_D2": true, "Standard_DC2s": true, "Standard_DS3": true, "Standard_F4": true, "Standard_F4s": true,
		"Standard_G5": true, "Standard_GS2": true, "Standard_L8s": true, "Standard_NC6": true, "Standard_NC24r": true, "Standard_NC12s_v2": true, "Standard_NC24rs_v2": true,
		"Standard_ND6s": true, "Standard_ND24rs": true, "Standard_NV6": true, "Standard_NV12s_v2": true,
		"Standard_D2s_v3": false, "Standard_A4_v2": false, "Standard_L8s_v3": false, "Standard_NC6s_v3": false, "Standard_ND40rs_v2": false, "Standard_NV12s_v3": false,
	} {
		if got := azureRetired.MatchString(name); got != want {
			t.Errorf("%s is retired: %v, want %v", name, got, want)
		}
	}
}

// What a subscription does not say, or says wrongly, costs the list nothing that it has without.
func TestAzureWithoutItsAccount(t *testing.T) {
	say := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = io.WriteString(w, body) }
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	elsewhere := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
	}
	value := func(items string) http.HandlerFunc { return say(http.StatusOK, `{"value": [`+items+`]}`) }
	for name, tt := range map[string]struct {
		login, manage http.HandlerFunc
		want          string // of the reason
	}{
		"the secret is wrong": {say(http.StatusUnauthorized, `{"error": "invalid_client", "x": "azure secret+1"}`), nil, `credentials rejected: {"error": "invalid_client", "x": "***"}`},
		"the form comes back": {func(w http.ResponseWriter, r *http.Request) {
			form, _ := io.ReadAll(r.Body)
			http.Error(w, string(form), http.StatusForbidden)
		}, nil, "client_secret=***"},
		"the token comes back": {nil, func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, r.Header.Get("Authorization"), http.StatusForbidden)
		}, "credentials rejected: Bearer ***"},
		"the application is not there": {say(http.StatusBadRequest, "AADSTS700016"), nil, "AADSTS700016"},
		"no login":                     {hang, nil, "no answer in 30s"},
		"a login elsewhere":            {elsewhere, nil, "elsewhere.example, which gets no credentials: set DSTACK_ENDPOINT_AZURE"},
		"no token":                     {say(http.StatusOK, `{}`), nil, "there is no token"},
		"a token that is two lines":    {say(http.StatusOK, `{"access_token": "a\nb"}`), nil, "there is no token"},
		"no right":                     {nil, say(http.StatusForbidden, "AuthorizationFailed"), "credentials rejected: AuthorizationFailed"},
		"no subscription":              {nil, say(http.StatusNotFound, "SubscriptionNotFound"), "not found: SubscriptionNotFound"},
		"it is down":                   {nil, say(http.StatusServiceUnavailable, "down"), "status 503: down"},
		"it hangs":                     {nil, hang, "nothing came for 1m0s"},
		"types elsewhere":              {nil, elsewhere, "elsewhere.example, which gets no credentials"},
		"not JSON":                     {nil, say(http.StatusOK, `<html>`), "the answer is not what the provider documents"},
		"a list":                       {nil, say(http.StatusOK, `[]`), `there is no "{"`},
		"cut off":                      {nil, say(http.StatusOK, `{"value": [`+sku("Standard_Z1", "eastus", "vCPUs=1", "MemoryGB=1")), "unexpected EOF"},
		"cut off in the middle":        {nil, say(http.StatusOK, `{"value": [{"name": "Stan`), "unexpected EOF"},
		"another shape":                {nil, value(`{"name": 1}`), "cannot unmarshal"},
		"a huge thing":                 {nil, value(sku("Standard_"+strings.Repeat("x", 2*maxAzureSKU), "eastus")), "one of its parts has more than 1048576 bytes"},
		"a huge space":                 {nil, value(strings.Repeat(" ", 2*maxAzureSKU)), "one of its parts has more than 1048576 bytes"},
		"a page elsewhere":             {nil, say(http.StatusOK, `{"value": [], "nextLink": "https://elsewhere.example/x"}`), "a page is at elsewhere.example"},
		"a page without encryption":    {nil, say(http.StatusOK, `{"value": [], "nextLink": "http://management.azure.com/x"}`), "a page is at management.azure.com"},
		"an address that is none":      {nil, say(http.StatusOK, `{"value": [], "nextLink": "https://a b\u0000"}`), "the address of a page is none"},
		"pages without end":            {nil, say(http.StatusOK, `{"nextLink": "https://management.azure.com/subscriptions/sub-1/providers/Microsoft.Compute/skus?api-version=2021-07-01"}`), "there are more than 1000 pages"},
		"more regions than there are": {nil, func(w http.ResponseWriter, _ *http.Request) {
			many(w, func(n int) string { return sku("Standard_Z1", fmt.Sprint("r", n)) })
		}, "there are more than 10000 types or 300 regions"},
		"more types than there are": {nil, func(w http.ResponseWriter, _ *http.Request) {
			many(w, func(n int) string { return sku(fmt.Sprint("Standard_Z", n), "eastus") })
		}, "there are more than 10000 types or 300 regions"},
		"more of other things than all": {nil, func(w http.ResponseWriter, _ *http.Request) { many(w, func(int) string { return "{}" }) }, "it lists more than 1000000 things"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &azureDouble{prices: azurePrices(), skus: azureSKUs(), login: tt.login, manage: tt.manage}
			got, err := a.collect(t, azureEnv)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"Standard_D2s_v6 eastus 2 8GB $0.1", "Standard_NC40ads_H100_v5 eastus 40 320GB H100NVL:94GB:1 $6.98"}, listed(got.List)); diff != "" {
				t.Errorf("the list differs (-want +got):\n%s", diff)
			}
			if got.NoAccount == nil || !strings.Contains(got.NoAccount.Error(), tt.want) || azureShown.MatchString(got.NoAccount.Error()) {
				t.Errorf("the account told nothing for %v, want %q", got.NoAccount, tt.want)
			}
		})
	}
}

// roundTrip is a transport.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// trickle is a body of which something comes every half a minute, without end.
type trickle struct{ ctx context.Context }

func (b trickle) Read(p []byte) (int, error) {
	select {
	case <-time.After(stallLimit / 2):
		return copy(p, ",{}"), nil
	case <-b.ctx.Done():
		return 0, context.Cause(b.ctx)
	}
}

// A subscription's list that does not end costs five minutes, and not the prices.
func TestAzureTypesWithoutEnd(t *testing.T) {
	k := known(t)
	synctest.Test(t, func(t *testing.T) {
		c := settings(nil, k)
		c.Env = azureEnv
		double := inMemory{&azureDouble{t: t, prices: azurePrices()}}
		c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "management.azure.com" {
				return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(io.MultiReader(strings.NewReader(`{"value": [{}`), trickle{r.Context()})), Request: r}, nil
			}
			return double.RoundTrip(r)
		})
		s, began := small(source(t, "azure")), time.Now()
		s.expect.gpus, s.expect.spot = nil, false
		got, err := Collect(t.Context(), c, s, today)
		if err != nil || got.NoAccount == nil || got.NoAccount.Error() != "it took longer than 5m0s" || got.List.Len() != 2 {
			t.Errorf("%v, without the account for %v", err, got.NoAccount)
		}
		if took := time.Since(began); took < accountLimit || took > accountLimit+answerLimit {
			t.Errorf("it took %v", took)
		}
	})
}

// Public prices may be elsewhere, also for who has credentials, which do not go there.
func TestAzurePricesElsewhere(t *testing.T) {
	k := known(t)
	synctest.Test(t, func(t *testing.T) {
		a, moved := &azureDouble{t: t, prices: azurePrices(), skus: azureSKUs()}, 0
		c := settings(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Host {
			case "prices.azure.com":
				http.Redirect(w, r, "https://mirror.example"+r.URL.RequestURI(), http.StatusFound)
				return
			case "mirror.example":
				moved++
				r.URL.Host = "prices.azure.com"
			}
			a.ServeHTTP(w, r)
		}), k)
		c.Env = azureEnv
		s := small(source(t, "azure"))
		s.expect.gpus, s.expect.spot = nil, false
		got, err := Collect(t.Context(), c, s, today)
		if err != nil || got.NoAccount != nil || got.List.Len() != 9 || moved == 0 {
			t.Errorf("%v, without the account for %v, %d requests were elsewhere", err, got.NoAccount, moved)
		}
	})
}

// azureShown is the secret, also as forms have it.
var azureShown = regexp.MustCompile(`azure.{1,3}secret`)

// many answers with more things than anybody has.
func many(w io.Writer, item func(n int) string) {
	_, _ = io.WriteString(w, `{"value": [{}`)
	for n := range maxAzureSKUs {
		_, _ = io.WriteString(w, ","+item(n))
		if n > maxAzureTypes && item(n) != "{}" {
			break
		}
	}
	_, _ = io.WriteString(w, `]}`)
}

// A page is read thing by thing, whatever its size.
func FuzzAzureSKUs(f *testing.F) {
	f.Add([]byte(`{"value": [` + azureSKUs()[0] + `], "nextLink": "x"}`))
	f.Fuzz(func(t *testing.T, page []byte) {
		found := azureFound{map[string]azureType{}, map[string]bool{}}
		_, err := readAzureSKUs(strings.NewReader(string(page)), found.add)
		if err != nil && !errors.Is(err, errStrange) {
			t.Errorf("%v is no %v", err, errStrange)
		}
		types := map[string]pricelist.Row{}
		tr := &tray{provider: "azure", asOf: "2026-11-25"}
		tr.azureTypes(types, found.types)
		for name, r := range types {
			if r.Region, r.Price = "eastus", 1; r.CPUs < 1 || r.MemoryMiB < 1 {
				t.Errorf("%s is %+v", name, r)
			}
			tr.addMore(r)
		}
	})
}
