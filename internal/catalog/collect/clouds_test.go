package collect

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/awsclient/awssig"
	"dstack/internal/catalog/pricelist"
)

// gather collects from a double, in virtual time.
func gather(t *testing.T, provider string, double http.HandlerFunc) (got Collection, err error) {
	t.Helper()
	k := known(t)
	synctest.Test(t, func(t *testing.T) {
		got, err = Collect(t.Context(), settings(double, k), small(source(t, provider)), today)
	})
	return got, err
}

func TestAzure(t *testing.T) {
	price := func(sku, meter string, usd float64, more string) string {
		return fmt.Sprintf(`{"currencyCode": "USD", "armSkuName": %q, "armRegionName": "REGION", "meterName": %q, "retailPrice": %g, "unitOfMeasure": "1 Hour",
			"productName": "Virtual Machines", "effectiveStartDate": "2024-01-01T00:00:00Z"%s}`, sku, meter, usd, more)
	}
	pages := map[string]string{
		"eastus 0": strings.Join([]string{
			price("Standard_D2s_v6", "D2s v6", 0.1, ""),
			price("Standard_D2s_v6", "D2s v6", 0.09, ""),                                                             // a second one as of the same day
			price("Standard_D2s_v6", "D2s v6", 0.2, `, "productName": "Virtual Machines Dsv6 Series CloudServices"`), // something else
			price("Standard_D2s_v6", "D2s v6 Spot", 0.02, ""),
			price("Standard_D2s_v6", "D2s v6 Spot", 0.03, `, "effectiveStartDate": "2026-10-01T00:00:00Z"`), // the latest
			price("Standard_D2s_v6", "D2s v6 Spot", 0.01, `, "effectiveStartDate": "2099-01-01T00:00:00Z"`), // not yet
			price("", "", 1, ""),
			price("Standard_Z1", "Z1", 1, ""),
		}, ","),
		"eastus 1000":  strings.Join([]string{price("Standard_NV36ads_A10_v5", "NV36", 3.2, ""), price("Standard_NC40ads_H100_v5", "NC40", 6.98, "")}, ","),
		"westeurope 0": price("Standard_NC24ads_A100_v4", "NC24", 4.775, "") + "," + price("Standard_NC24ads_A100_v4", "NC24", 0, ""),
	}
	got, err := gather(t, "azure", func(w http.ResponseWriter, r *http.Request) {
		filter, q := r.URL.Query().Get("$filter"), r.URL.Query()
		_, region, _ := strings.Cut(filter, "armRegionName eq '")
		region = strings.TrimSuffix(region, "'")
		if r.URL.Path != "/api/retail/prices" || !strings.HasPrefix(filter, "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and ") {
			t.Errorf("asked for %s", r.URL)
		}
		fmt.Fprintf(w, `{"Items": [%s]}`, strings.ReplaceAll(pages[region+" "+q.Get("$skip")], "REGION", region))
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Standard_D2s_v6 eastus 2 8GB $0.1",
		"Standard_D2s_v6 eastus 2 8GB spot $0.03",
		"Standard_NC24ads_A100_v4 westeurope 24 220GB A100:80GB:1 $4.775",
		"Standard_NC40ads_H100_v5 eastus 40 320GB H100NVL:94GB:1 $6.98",
		"Standard_NV36ads_A10_v5 eastus 36 440GB A10:24GB:1 $3.2",
	}
	if diff := cmp.Diff(want, listed(got.List)); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Standard_Z1"}, got.LeftOut.Names); diff != "" || got.Free != 1 {
		t.Errorf("%d rows without a price, left out (-want +got):\n%s", got.Free, diff)
	}
	_, err = gather(t, "azure", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"Items": [%s{}]}`, strings.Repeat("{},", azurePage))
	})
	if err == nil || !strings.Contains(err.Error(), "a page has more than 1000 prices") {
		t.Errorf("a large page: %v", err)
	}
}

const awsHead = `"FormatVersion","v1.0"
"Disclaimer","This pricing list is for informational purposes only."
"Publication Date","2026-11-20T00:00:00Z"
"Version","20261120000000"
"OfferCode","AmazonEC2"
"SKU","TermType","Unit","PricePerUnit","Currency","Instance Type","vCPU","Memory","Tenancy","Operating System","Pre Installed S/W","CapacityStatus","MarketOption","Region Code","GPU"
`

func TestAWS(t *testing.T) {
	const plain = `"a","OnDemand","Hrs","0.8048","USD","g6.xlarge","4","16 GiB","Shared","Linux","NA","Used","OnDemand","us-east-1","1"` + "\n"
	var tr *tray
	read := func(text string) ([]string, error) {
		tr = &tray{provider: "aws", asOf: "2026-11-25"}
		err := tr.aws(strings.NewReader(text), known(t).Types("aws"), nil)
		return listed(tr.list.List()), err
	}
	got, err := read(awsHead + plain + plain + // once more, at the same price
		strings.Replace(plain, "us-east-1", "us-west-2-lax-1", 1) +
		`"b","OnDemand","Hrs","0.096","USD","m5.large","2","8 GiB","Shared","Linux","","Used","OnDemand","us-east-1",""` + "\n" +
		strings.Replace(plain, "Shared", "Dedicated", 1) + strings.Replace(plain, "Linux", "Windows", 1) + strings.Replace(plain, `"OnDemand","Hrs"`, `"Reserved","Hrs"`, 1) +
		strings.Replace(plain, "g6.xlarge", "m1.small", 1) + strings.Replace(plain, "0.8048", "0.0000000000", 1))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"g6.xlarge us-east-1 4 16GB L4:24GB:1 $0.8048", "g6.xlarge us-west-2-lax-1 4 16GB L4:24GB:1 $0.8048", "m5.large us-east-1 2 8GB $0.096"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"m1.small"}, tr.leftOut().Names); diff != "" || tr.free != 1 {
		t.Errorf("%d rows without a price, left out (-want +got):\n%s", tr.free, diff)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"cut off in the head":    {awsHead[:100], "unexpected EOF"},
		"cut off in a row":       {awsHead + plain + plain[:40], "aws: row 2: "},
		"another price":          {awsHead + plain + strings.Replace(plain, "0.8048", "0.9", 1), `aws: row 2: instance_name: g6.xlarge in "us-east-1" is there twice`},
		"a negative price":       {awsHead + strings.Replace(plain, "0.8048", "-1", 1), "price: -1 is not 0.0001 to"},
		"no number":              {awsHead + strings.Replace(plain, "0.8048", "NaN", 1), "price: NaN is not 0.0001 to"},
		"a size without measure": {awsHead + strings.Replace(plain, "16 GiB", "much", 1), `memory: "much" is not a size`},
		"other columns":          {strings.ReplaceAll(awsHead, "Region Code", "Place"), `there is no column "Region Code"`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := read(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// A type that is sold nearly everywhere is not in a few places only: what lists them was cut off.
func TestSpread(t *testing.T) {
	in := func(provider, name string, places int) *pricelist.List {
		tr := &tray{provider: provider, asOf: "2026-11-25"}
		for n := range places {
			if err := tr.add(pricelist.Row{Instance: name, Region: fmt.Sprint("r", n), CPUs: 2, MemoryMiB: 8192, Price: 1}); err != nil {
				t.Fatal(err)
			}
		}
		return tr.list.List()
	}
	for _, s := range []Source{aws(), azure()} {
		for name, places := range s.expect.spread {
			only := expectation{spread: map[string]int{name: places}}
			want := fmt.Sprintf("%s is in %d places, fewer than %d", name, places-1, places)
			if err := only.check(in(s.Provider, name, places-1)); err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
			if err := only.check(in(s.Provider, name, places)); err != nil {
				t.Errorf("%s is where it must be: %v", name, err)
			}
		}
	}
}

// ec2 is a double of the API of EC2 in all regions, which checks signatures.
type ec2 struct {
	t     *testing.T
	zones map[string]map[string]string // by region: zones with prices, "type=price ..." each
	down  string                       // a region that does not answer
}

func (e ec2) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	region := strings.TrimSuffix(strings.TrimPrefix(r.URL.Host, "ec2."), ".amazonaws.com")
	signer := awssig.Signer{AccessKey: "key", SecretKey: "secret", Region: region, Service: "ec2"}
	if err := signer.Verify(r, nil); err != nil {
		e.t.Errorf("%s: %v", r.URL, err)
	}
	q := r.URL.Query()
	switch {
	case region == e.down:
		http.Error(w, `<Response><Errors><Error><Code>AuthFailure</Code></Error></Errors></Response>`, http.StatusUnauthorized)
	case q.Get("Action") == "DescribeRegions":
		_, _ = io.WriteString(w, `<DescribeRegionsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><regionInfo>`)
		for name := range e.zones {
			fmt.Fprintf(w, `<item><regionName>%s</regionName><optInStatus>opted-in</optInStatus></item>`, name)
		}
		_, _ = io.WriteString(w, `</regionInfo></DescribeRegionsResponse>`)
	case q.Get("Action") == "DescribeSpotPriceHistory" && q.Get("ProductDescription.1") == "Linux/UNIX" && q.Get("StartTime") == "2026-11-25T18:00:00Z":
		zones := slices.Sorted(maps.Keys(e.zones[region])) // one to a page
		at, _ := strconv.Atoi(q.Get("NextToken"))
		next := ""
		if at+1 < len(zones) {
			next = strconv.Itoa(at + 1)
		}
		_, _ = io.WriteString(w, `<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><spotPriceHistorySet>`)
		for _, priced := range strings.Fields(e.zones[region][zones[at]]) {
			name, price, _ := strings.Cut(priced, "=")
			if slices.ContainsFunc(slices.Collect(maps.Values(q)), func(values []string) bool { return values[0] == name }) {
				fmt.Fprintf(w, `<item><instanceType>%s</instanceType><spotPrice>%s</spotPrice><availabilityZone>%s</availabilityZone></item>`, name, price, zones[at])
			}
		}
		fmt.Fprintf(w, `</spotPriceHistorySet><nextToken>%s</nextToken></DescribeSpotPriceHistoryResponse>`, next)
	default:
		e.t.Errorf("asked for %s", r.URL)
	}
}

func TestAWSSpot(t *testing.T) {
	double := ec2{t: t, down: "me-south-1", zones: map[string]map[string]string{
		"us-east-1":  {"us-east-1a": "g6.xlarge=0.41 m5.large=0.0371", "us-east-1b": "g6.xlarge=0.352"},
		"eu-west-1":  {"eu-west-1a": "m5.large=0.05 x9.large=1"},
		"me-south-1": {"me-south-1a": "m5.large=0.01"},
	}}
	collect := func(double ec2) (got Collection, err error) {
		k := known(t)
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(today)) // signatures are dated
			double.t = t
			got, err = Collect(t.Context(), settings(double, k), small(source(t, "aws-spot")), today)
		})
		return got, err
	}
	got, err := collect(double)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"g6.xlarge us-east-1 4 16GB L4:24GB:1 spot $0.352", "m5.large eu-west-1 2 8GB spot $0.05", "m5.large us-east-1 2 8GB spot $0.0371"}
	if diff := cmp.Diff(want, listed(got.List)); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"region me-south-1"}, got.LeftOut.Names); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	for want, change := range map[string]func(){
		"has more than 50000 elements": func() {
			double.zones["us-east-1"] = map[string]string{"us-east-1a": strings.Repeat("m5.large=1 ", maxElements/3)}
		},
		"is not a number":            func() { double.zones["us-east-1"] = map[string]string{"us-east-1a": "m5.large=cheap"} },
		"price: -1 is not 0.0001 to": func() { double.zones["us-east-1"] = map[string]string{"us-east-1a": "m5.large=-1"} },
		"is not a region":            func() { double.zones = map[string]map[string]string{"evil.example/": {}} },
		"credentials rejected":       func() { double.down = "us-east-1" },
		"DescribeSpotPriceHistory ":  func() { double.zones = map[string]map[string]string{"me-south-1": {"a": ""}} },
	} {
		old := double
		double.zones = maps.Clone(double.zones)
		change()
		if _, err := collect(double); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		double = old
	}
}

// What is left out is named up to a limit, and counted beyond.
func TestManyAreLeftOut(t *testing.T) {
	tr := &tray{provider: "aws", asOf: "2026-11-25"}
	for n := range maxLeftOut + 5 {
		tr.leaveOut(fmt.Sprintf("x%05d.large", n))
	}
	got := tr.leftOut()
	if len(got.Names) != maxNamed || got.Len() != maxLeftOut || got.Names[99] != "x00099.large" {
		t.Errorf("%d names, %d in all", len(got.Names), got.Len())
	}
}

// Of machines that have one name the cheapest is listed, of those the one that has most.
func TestHotAisleMachinesOfOneName(t *testing.T) {
	machine := func(cents, cores, ram, disk int) string {
		return fmt.Sprintf(`{"OnDemandPrice": %d, "Specs": {"cpu_cores": %d, "ram_capacity": %d, "disk_capacity": %d, "cpus": {"model": "Xeon"}, "gpus": [{"count": 1, "model": "MI300X"}]}}`, cents, cores, ram<<30, disk<<30)
	}
	var items []hotAisleItem
	if err := json.Unmarshal([]byte("["+strings.Join([]string{machine(300, 8, 512, 100), machine(199, 8, 224, 100), machine(199, 8, 224, 200), machine(500, 13, 512, 100)}, ",")+"]"), &items); err != nil {
		t.Fatal(err)
	}
	for range 10 { // whatever the order
		tr := &tray{provider: "hotaisle", asOf: "2026-11-25"}
		if err := tr.hotAisle(items); err != nil {
			t.Fatal(err)
		}
		want := []string{"1x MI300X 13x Xeon us-michigan-1 13 512GB disk=100GB MI300X:192GB:1 $5", "1x MI300X 8x Xeon us-michigan-1 8 224GB disk=200GB MI300X:192GB:1 $1.99"}
		if diff := cmp.Diff(want, listed(tr.list.List())); diff != "" {
			t.Errorf("the list differs (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"1x MI300X 8x Xeon with another memory or disk"}, tr.leftOut().Names); diff != "" {
			t.Errorf("left out (-want +got):\n%s", diff)
		}
		rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
	}
}

// A provider that stops in the middle of a long answer is given up.
func TestStalledStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, write := io.Pipe()
		go func() { _, _ = io.WriteString(write, awsHead) }()
		c := settings(nil, known(t))
		c.Transport = answer(func(r *http.Request) *http.Response {
			context.AfterFunc(r.Context(), func() { _ = read.CloseWithError(context.Cause(r.Context())) })
			return &http.Response{StatusCode: http.StatusOK, Body: read, Request: r}
		})
		began := time.Now()
		_, err := Collect(t.Context(), c, source(t, "aws"), today)
		if err == nil || !strings.HasSuffix(err.Error(), "nothing came for 1m0s") || time.Since(began) != stallLimit {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// answer is a transport.
type answer func(*http.Request) *http.Response

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }

// gcpItem is a price as Google publishes it.
func gcpItem(family, group, usage, description string, usd float64) string {
	return fmt.Sprintf(`{"description": %q, "category": {"resourceFamily": %q, "resourceGroup": %q, "usageType": %q}, "serviceRegions": ["us-central1"],
		"pricingInfo": [{"pricingExpression": {"tieredRates": [{"unitPrice": {"units": "%d", "nanos": %.0f}}]}}]}`, description, family, group, usage, int(usd), (usd-float64(int(usd)))*1e9)
}

func TestGCP(t *testing.T) {
	pages := map[string][]string{
		"6F81-5844-456A ": {
			gcpItem("Compute", "CPU", "OnDemand", "N2 Instance Core running in Americas", 0.03),
			gcpItem("Compute", "RAM", "OnDemand", "N2 Instance Ram running in Americas", 0.004),
			gcpItem("Compute", "CPU", "Preemptible", "Spot Preemptible N2 Instance Core running in Americas", 0.01),
			gcpItem("Compute", "RAM", "Preemptible", "Spot Preemptible N2 Instance Ram running in Americas", 0.001),
			gcpItem("Compute", "CPU", "OnDemand", "N2 Sole Tenancy Instance Core running in Americas", 9),
			gcpItem("Compute", "CPU", "Commit1Yr", "Commitment v1: N2 Cpu in Americas for 1 Year", 9),
			gcpItem("Compute", "CPU", "OnDemand", "G2 Instance Core running in Americas", 0.025),
			gcpItem("Compute", "RAM", "OnDemand", "G2 Instance Ram running in Americas", 0.003),
			gcpItem("Compute", "GPU", "OnDemand", "Nvidia L4 GPU running in Americas", 0.56),
			gcpItem("Compute", "GPU", "OnDemand", "Nvidia Tesla A100 80GB GPU running in Americas", 3.9),
		},
		"6F81-5844-456A next": {
			gcpItem("Compute", "CPU", "OnDemand", "E2 Instance Core running in Americas", 0.022),
			gcpItem("Compute", "RAM", "OnDemand", "E2 Instance Ram running in Americas", 0.003),
			gcpItem("Compute", "CPU", "OnDemand", "A2 Instance Core running in Americas", 0.03),
			gcpItem("Compute", "RAM", "OnDemand", "A2 Instance Ram running in Americas", 0.004),
			gcpItem("Storage", "LocalSSD", "OnDemand", "SSD backed Local Storage in Iowa", 0.073),
			gcpItem("Compute", "CPU", "OnDemand", "A3 Instance Core running in Americas", 0.03),
			gcpItem("Compute", "RAM", "OnDemand", "A3 Instance Ram running in Americas", 0.003),
			gcpItem("Compute", "GPU", "OnDemand", "Nvidia H100 80GB GPU running in Americas", 9.8),
			gcpItem("Compute", "GPU", "Preemptible", "Spot Preemptible A4 Nvidia B200 (1 gpu slice) running in Americas", 6),
			gcpItem("Compute", "TPU", "OnDemand", "TpuV5e running in Iowa", 1.2),
		},
	}
	got, err := gather(t, "gcp", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Goog-Api-Key") != "key" || strings.Contains(r.URL.String(), "key=") {
			t.Errorf("the key is not where it belongs: %s", r.URL)
		}
		service := strings.Split(r.URL.Path, "/")[3]
		token := r.URL.Query().Get("pageToken")
		next := ""
		if service == "6F81-5844-456A" && token == "" {
			next = "next"
		}
		fmt.Fprintf(w, `{"skus": [%s], "nextPageToken": %q}`, strings.Join(pages[service+" "+token], ","), next)
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"a2-ultragpu-1g us-central1 12 170GB A100:80GB:1 $4.9775",
		"a3-highgpu-8g us-central1 208 1872GB H100:80GB:8 $90.856",
		"a4-highgpu-8g us-central1 224 3968GB B200:180GB:8 spot $48",
		"e2-medium us-central1 2 4GB $0.034",
		"g2-standard-4 us-central1 4 16GB L4:24GB:1 $0.708",
		"n2-standard-2 us-central1 2 8GB $0.092",
		"n2-standard-2 us-central1 2 8GB spot $0.028",
		"v5litepod-4 us-central1 112 192GB v5litepod-4:64GB:1 $4.8",
	}
	if diff := cmp.Diff(want, listed(got.List)); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a3-ultragpu-8g"}, got.LeftOut.Names); diff != "" || got.Free != 1 {
		t.Errorf("%d rows without a price, left out (-want +got):\n%s", got.Free, diff)
	}
}

func TestRunpod(t *testing.T) {
	double := func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Query     string
			Variables struct{ In map[string]any }
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.URL.Path != "/graphql" {
			t.Errorf("%s: %v", r.URL, err)
		}
		in := q.Variables.In
		switch {
		case strings.Contains(q.Query, "countryCodes"):
			_, _ = io.WriteString(w, `{"data": {"gpuTypes": [{"id": "NVIDIA A100 80GB PCIe", "memoryInGb": 80, "maxGpuCount": 2}, {"id": "NVIDIA GeForce RTX 4090", "memoryInGb": 24, "maxGpuCount": 1}],
				"countryCodes": ["CA", "AR"], "dataCenters": [{"id": "US-TX-3", "listed": true}, {"id": "XX-OLD-1", "listed": false}]}}`)
		case strings.Contains(q.Query, "cpuFlavors"):
			_, _ = io.WriteString(w, `{"data": {"cpuFlavors": [{"id": "cpu3g", "minVcpu": 2, "maxVcpu": 12, "ramMultiplier": 4, "diskLimitPerVcpu": 10, "specifics": {"stockStatus": "High", "securePrice": 0.08}},
				{"id": "cpu9", "minVcpu": 2, "maxVcpu": 8, "ramMultiplier": 4, "diskLimitPerVcpu": 10, "specifics": {"stockStatus": null, "securePrice": 0.08}}]}}`)
		case in["countryCode"] == "CA" && in["gpuCount"] == 1.0:
			_, _ = io.WriteString(w, `{"data": {"gpuTypes": [{"id": "NVIDIA GeForce RTX 4090", "memoryInGb": 24, "securePrice": 0.69, "communityPrice": 0.34, "lowestPrice": {"stockStatus": "Low", "minVcpu": 6, "minMemory": 31}}]}}`)
		case in["dataCenterId"] == "US-TX-3":
			n := in["gpuCount"].(float64)
			fmt.Fprintf(w, `{"data": {"gpuTypes": [{"id": "NVIDIA A100 80GB PCIe", "memoryInGb": 80, "securePrice": 1.39, "communityPrice": null, "lowestPrice": {"stockStatus": "High", "minVcpu": %g, "minMemory": %g}},
				{"id": "NVIDIA H100 NVL", "memoryInGb": 94, "securePrice": 2.79, "communityPrice": null, "lowestPrice": {"stockStatus": "High", "minVcpu": 16, "minMemory": 94}},
				{"id": "NVIDIA H100 80GB HBM3", "memoryInGb": 80, "securePrice": 2.69, "lowestPrice": {"stockStatus": "High", "minVcpu": 20, "minMemory": 125}},
				{"id": "AMD Mystery", "memoryInGb": 1, "securePrice": 1, "lowestPrice": {"stockStatus": "High", "minVcpu": 1, "minMemory": 1}},
				{"id": "NVIDIA A40", "memoryInGb": 48, "securePrice": 0.4, "lowestPrice": {"stockStatus": null, "minVcpu": null, "minMemory": null}}]}}`, 8*n, 117*n)
		default:
			_, _ = io.WriteString(w, `{"data": {"gpuTypes": []}}`)
		}
	}
	got, err := gather(t, "runpod", double)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"NVIDIA A100 80GB PCIe US-TX-3 16 234GB A100:80GB:2 $2.78",
		"NVIDIA A100 80GB PCIe US-TX-3 8 117GB A100:80GB:1 $1.39",
		"NVIDIA GeForce RTX 4090 CA 6 31GB RTX4090:24GB:1 $0.34",
		"NVIDIA H100 80GB HBM3 US-TX-3 20 125GB H100:80GB:1 $2.69",
		"NVIDIA H100 80GB HBM3 US-TX-3 20 125GB H100:80GB:2 $5.38",
		"NVIDIA H100 NVL US-TX-3 16 94GB H100NVL:94GB:1 $2.79",
		"NVIDIA H100 NVL US-TX-3 16 94GB H100NVL:94GB:2 $5.58",
		"cpu3g-12-48 US-TX-3 12 48GB disk=120GB $0.48",
		"cpu3g-2-8 US-TX-3 2 8GB disk=20GB $0.08",
		"cpu3g-4-16 US-TX-3 4 16GB disk=40GB $0.16",
		"cpu3g-8-32 US-TX-3 8 32GB disk=80GB $0.32",
	}
	if diff := cmp.Diff(want, listed(got.List)); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"AMD Mystery"}, got.LeftOut.Names); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
}

// A range of sizes that is none is not walked through.
func TestRunpodRanges(t *testing.T) {
	flavor := func(id string, least, most number) runpodFlavor {
		f := runpodFlavor{ID: id, Min: least, Max: most, RAM: 4, Disk: 10}
		stock, price := "High", number(0.08)
		f.Specifics = &struct {
			Stock *string `json:"stockStatus"`
			Price *number `json:"securePrice"`
		}{&stock, &price}
		return f
	}
	free := flavor("free", 2, 4)
	*free.Specifics.Price = 0
	nan := number(math.NaN())
	tr := &tray{provider: "runpod", asOf: "2026-11-25"}
	err := tr.runpodCPUs(runpodQuestion{runpodPlace{"US-TX-3", true}, 0}, []runpodFlavor{
		flavor("good", 2, 4), free, flavor("huge", 1e12, 1e12), flavor("nan", nan, 8), flavor("nans", nan, nan), flavor("to-nan", 2, nan),
		flavor("none", 0, 8), flavor("turned", 8, 4), flavor("large", 2, 1025), flavor("below", -4, 8),
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"good-2-8 US-TX-3 2 8GB disk=20GB $0.08", "good-4-16 US-TX-3 4 16GB disk=40GB $0.16"}, listed(tr.list.List())); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"below", "huge", "large", "nan", "nans", "none", "to-nan", "turned"}, tr.leftOut().Names); diff != "" || tr.free != 1 {
		t.Errorf("%d rows without a price, left out (-want +got):\n%s", tr.free, diff)
	}
}

// Answers that are short of the limit for one are not held together.
func TestRunpodIsBounded(t *testing.T) {
	const size, answers, enough = 512 << 10, 150, 60 << 20 // bytes, and what is on its way
	answer := fmt.Sprintf(`{"data": {"gpuTypes": [{"id": %[1]q, "lowestPrice": {"stockStatus": %[1]q}}], "countryCodes": [%[1]q]}}`, strings.Repeat("x", size/3))
	var asked, most atomic.Int64
	before := heap()
	_, err := gather(t, "runpod", func(w http.ResponseWriter, r *http.Request) {
		question, _ := io.ReadAll(r.Body)
		if strings.Contains(string(question), "countryCodes") {
			places := strings.Repeat(`{"id": "A", "listed": true},`, answers-1) + `{"id": "A", "listed": true}`
			fmt.Fprintf(w, `{"data": {"gpuTypes": [{"id": "a", "maxGpuCount": 1}], "dataCenters": [%s]}}`, places)
			return
		}
		if asked.Add(1) == answers-10 {
			most.Store(heap())
		}
		_, _ = io.WriteString(w, answer)
	})
	if err == nil || !strings.Contains(err.Error(), "there are 0 rows") {
		t.Errorf("error %v", err)
	}
	if held := most.Load() - before; held > enough {
		t.Errorf("%d MB are held of answers that are not needed any more", held>>20)
	}
}

// Pages that are short of the limit for one are not so together.
func TestPagesAreBounded(t *testing.T) {
	for provider, tt := range map[string]struct {
		page func(n int) string
		want string
	}{
		"gcp": {func(n int) string {
			var regions []string
			for i := range maxGCPParts / 4 {
				regions = append(regions, fmt.Sprintf("%d-%d", n, i))
			}
			places, _ := json.Marshal(regions) // texts
			item := gcpItem("Compute", "CPU", "OnDemand", "N2 Instance Core running in Americas", 1)
			return fmt.Sprintf(`{"skus": [%s], "nextPageToken": "more"}`, strings.Replace(item, `["us-central1"]`, string(places), 1))
		}, "it lists more than 100000 prices of parts"},
		"vultr": {func(n int) string {
			var plans []string
			for i := range 5000 {
				plans = append(plans, plan(fmt.Sprintf("vc2-%d-%d", n, i), "1"))
			}
			return fmt.Sprintf(`{"plans": [%s], "meta": {"links": {"next": "more"}}}`, strings.Join(plans, ","))
		}, "is one of more than 20000 different ones"},
		"digitalocean": {func(n int) string {
			var sizes []string
			for i := range 5000 {
				sizes = append(sizes, fmt.Sprintf(`{"slug": "s-%d-%d", "price_hourly": 1, "vcpus": 1, "memory": 1024, "disk": 10, "regions": ["nyc1"]}`, n, i))
			}
			return fmt.Sprintf(`{"sizes": [%s], "links": {"pages": {"next": "more"}}}`, strings.Join(sizes, ","))
		}, "is one of more than 20000 different ones"},
	} {
		asked := 0
		_, err := gather(t, provider, func(w http.ResponseWriter, _ *http.Request) {
			asked++
			_, _ = io.WriteString(w, tt.page(asked))
		})
		if err == nil || !strings.Contains(err.Error(), tt.want) || asked > 6 {
			t.Errorf("%s: %v after %d pages, want %q", provider, err, asked, tt.want)
		}
	}
}

// Of Azure's prices a list is kept before it is made.
func TestAzurePricesAreBounded(t *testing.T) {
	types, page := map[string]pricelist.Row{}, []azurePrice{}
	for n := range 5000 {
		name := fmt.Sprintf("Standard_D%ds_v9", n)
		types[name] = pricelist.Row{Instance: name}
		page = append(page, azurePrice{SKU: name, Price: 1, Meter: name, Unit: "1 Hour", Coin: "USD"})
	}
	tr, valid := &tray{provider: "azure"}, azureValid{}
	for n := range 101 {
		region := fmt.Sprint("r", n)
		for i := range page {
			page[i].Region = region
		}
		err := tr.azurePage(valid, region, page, types, today)
		if full := n == pricelist.MaxRows/len(page); (err != nil) != full || full && !strings.Contains(err.Error(), "it lists more than 500000 prices") {
			t.Errorf("page %d: %v", n, err)
		}
	}
}

// heap is what is in use, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// An error among the answers is no reason to publish the rest.
func TestRunpodFails(t *testing.T) {
	_, err := gather(t, "runpod", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"errors": [{"message": "Something went\u001b[2J wrong"}], "data": null}`)
	})
	if err == nil || !strings.Contains(err.Error(), "Something went [2J wrong") {
		t.Errorf("%v, want what they said without control characters", err)
	}
}

func TestCrusoeSignature(t *testing.T) {
	got, err := crusoeSignature("c2VjcmV0LWtleQ", "/v1alpha5/capacities", "", "GET", "2026-11-25T18:00:00+00:00")
	// printf '/v1alpha5/capacities\n\nGET\n2026-11-25T18:00:00+00:00\n' | openssl dgst -sha256 -hmac secret-key -binary | basenc --base64url
	if want := "KV3NaU_JkBAY-o20Ed3a2kNrk8N8DQ9I2pNS3CxBZ0s"; err != nil || got != want {
		t.Errorf("signature %s, %v, want %s", got, err, want)
	}
	if _, err := crusoeSignature("not base64!", "/", "", "GET", ""); err == nil {
		t.Error("a secret that is none was used")
	}
}

func TestPlainName(t *testing.T) {
	for name, want := range map[string]string{
		"NVIDIA A100-SXM4-80GB": "A100", "NVIDIA H100 80GB HBM3": "H100", "H100 NVL": "H100NVL", "RTX A6000 48GB": "A6000", "Tesla V100 16GB": "V100",
		"NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTXPRO6000", "NVIDIA RTX 6000 Ada Generation": "RTX6000Ada", "rtx6000_ada": "rtx6000ada",
		"NVIDIA GeForce RTX 3080 Ti": "RTX3080Ti", "AMD Instinct MI300X OAM": "MI300X", "MI355X_288GB": "MI355X", "Q RTX 8000": "RTX8000", "": "",
	} {
		if got := plainName(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}
