package collect

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
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

// awsLine is a row of the price file.
func awsLine(instance, region, usd, cpus, memory, gpus string) string {
	return fmt.Sprintf(`"a","OnDemand","Hrs",%q,"USD",%q,%q,"%s GiB","Shared","Linux","NA","Used","OnDemand",%q,%q`+"\n", usd, instance, cpus, memory, region, gpus)
}

// awsAccount is a double of the price file and of EC2 in all regions.
type awsAccount struct {
	t     *testing.T
	file  string
	types map[string]map[string]string // by region: what it says of a type, as XML
	ec2   func(region string) http.HandlerFunc
	asked []string // regions, in order
}

func (a *awsAccount) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Host == "pricing.us-east-1.amazonaws.com" {
		if r.Header.Get("Authorization") != "" {
			a.t.Error("the public file is asked for with credentials")
		}
		_, _ = io.WriteString(w, awsHead+a.file)
		return
	}
	region := strings.TrimSuffix(strings.TrimPrefix(r.URL.Host, "ec2."), ".amazonaws.com")
	signer := awssig.Signer{AccessKey: "key", SecretKey: "secret", Region: region, Service: "ec2"}
	if err := signer.Verify(r, nil); err != nil {
		a.t.Errorf("%s: %v", r.URL, err)
	}
	q := r.URL.Query()
	if q.Get("Action") != "DescribeInstanceTypes" || q.Get("Filter.1.Name") != "instance-type" || q.Get("Filter.1.Value.101") != "" {
		a.t.Errorf("asked for %s", r.URL)
	}
	if len(a.asked) == 0 || a.asked[len(a.asked)-1] != region {
		a.asked = append(a.asked, region)
	}
	if a.ec2 != nil {
		if do := a.ec2(region); do != nil {
			do(w, r)
			return
		}
	}
	var names []string // in pages of two
	for i := 1; q.Get("Filter.1.Value."+strconv.Itoa(i)) != ""; i++ {
		if name := q.Get("Filter.1.Value." + strconv.Itoa(i)); a.types[region][name] != "" {
			names = append(names, name)
		}
	}
	at, _ := strconv.Atoi(q.Get("NextToken"))
	next := ""
	if at+2 < len(names) {
		next = strconv.Itoa(at + 2)
	}
	_, _ = io.WriteString(w, `<DescribeInstanceTypesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><instanceTypeSet>`)
	for _, name := range names[at:min(at+2, len(names))] {
		fmt.Fprintf(w, `<item><instanceType>%s</instanceType>%s</item>`, name, a.types[region][name])
	}
	fmt.Fprintf(w, `</instanceTypeSet><nextToken>%s</nextToken></DescribeInstanceTypesResponse>`, next)
}

func (a *awsAccount) collect(t *testing.T, env func(string) string) (got Collection, err error) {
	t.Helper()
	a.t, a.asked = t, nil
	k := known(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(today)) // signatures are dated
		c := settings(a, k)
		c.Env = env
		s := small(source(t, "aws"))
		s.expect.gpus = nil
		got, err = Collect(t.Context(), c, s, today)
	})
	return got, err
}

const (
	xmlX86 = `<processorInfo><supportedArchitectures><item>i386</item><item>x86_64</item></supportedArchitectures></processorInfo>`
	xmlArm = `<processorInfo><supportedArchitectures><item>arm64</item></supportedArchitectures></processorInfo>`
)

func xmlGPU(name string, count, mib int, part string) string {
	return fmt.Sprintf(`<gpuInfo><gpus><item><name>%s</name><manufacturer>NVIDIA</manufacturer><count>%d</count><gpuPartitionSize>%s</gpuPartitionSize><memoryInfo><sizeInMiB>%d</sizeInMiB></memoryInfo></item></gpus></gpuInfo>`, name, count, part, mib)
}

// priced is a file of types that the program knows and of others, which two regions and a local zone sell.
func priced() string {
	return awsLine("g6.xlarge", "us-east-1", "0.8048", "4", "16", "1") + awsLine("m5.large", "us-east-1", "0.096", "2", "8", "") +
		awsLine("c8g.large", "us-east-1", "0.08", "2", "4", "") + awsLine("c8g.large", "us-west-2-lax-1", "0.1", "2", "4", "") + awsLine("c8g.large", "us-east-1", "0.08", "2", "4", "") +
		awsLine("g5g.xlarge", "us-east-1", "0.42", "4", "8", "1") + awsLine("g7e.2xlarge", "us-east-1", "3.3", "8", "64", "1") + awsLine("g7.2xlarge", "us-east-1", "1.3", "8", "32", "1") +
		awsLine("g6x.12xlarge", "us-east-1", "4.6", "48", "192", "4") + awsLine("p6-b200.48xlarge", "us-west-2", "113.93", "192", "2,048", "8") +
		awsLine("inf2.xlarge", "us-east-1", "0.76", "4", "16", "") + awsLine("g6f.large", "us-east-1", "0.2", "2", "8", "0.125") + awsLine("g9.large", "us-east-1", "0.2", "2", "8", "1") +
		awsLine("m3.medium", "us-east-1", "0.067", "1", "3.75", "") + awsLine("x9.large", "us-east-1", "0.2", "2", "8", "") + awsLine("gr6f.4xlarge", "us-east-1", "0.2", "16", "128", "1") +
		awsLine("c7x.large", "us-east-1", "0.2", "2", "8", "") + awsLine("c7x.large", "us-east-1", "0.3", "2", "8", "") + // which of the two?
		awsLine("c7y.large", "us-east-1", "-1", "2", "8", "") + awsLine("c7z.large", "us-east-1", "0.2", "NA", "8", "") + awsLine("mac9.metal", "us-east-1", "1", "8", "16", "")
}

func described() map[string]map[string]string {
	return map[string]map[string]string{
		"us-east-1": {
			"c8g.large": xmlArm, "g5g.xlarge": xmlArm + xmlGPU("T4g", 1, 16384, "1.0"), "g7e.2xlarge": xmlX86 + xmlGPU("RTX PRO Server 6000", 1, 98304, "1.0"),
			"g7.2xlarge": xmlX86 + xmlGPU("RTX PRO 4500", 1, 32768, "1.0"), "g6x.12xlarge": xmlX86 + xmlGPU("L4", 4, 91552, "1.0"), "g9.large": xmlX86 + xmlGPU("X9", 1, 8192, "1.0"),
			"inf2.xlarge": xmlX86 + `<neuronInfo/>`, "gr6f.4xlarge": xmlX86 + xmlGPU("L4", 1, 11444, "0.5"), "mac9.metal": `<processorInfo><supportedArchitectures><item>arm64_mac</item></supportedArchitectures></processorInfo>`,
			"c7x.large": xmlX86, "c7y.large": xmlX86, "c7z.large": xmlX86, "never.asked": xmlX86,
		},
		"us-west-2": {"p6-b200.48xlarge": xmlX86 + xmlGPU("B200", 8, 183359, "1.0")},
	}
}

// With credentials, EC2 says what types have that the program does not know; without, they are left out.
func TestAWSTypes(t *testing.T) {
	a := &awsAccount{file: priced(), types: described()}
	without, err := a.collect(t, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	public := []string{"g6.xlarge us-east-1 4 16GB L4:24GB:1 $0.8048", "m5.large us-east-1 2 8GB $0.096"}
	if diff := cmp.Diff(public, listed(without.List)); diff != "" || len(a.asked) > 0 || without.LeftOut.Len() != 16 {
		t.Errorf("without credentials %v is asked, %d left out, the list differs (-want +got):\n%s", a.asked, without.LeftOut.Len(), diff)
	}
	got, err := a.collect(t, credentials)
	if err != nil || got.NoAccount != nil {
		t.Fatal(err, got.NoAccount)
	}
	want := append(slices.Clone(public),
		"c8g.large us-east-1 2 4GB arm $0.08",
		"c8g.large us-west-2-lax-1 2 4GB arm $0.1",
		"g5g.xlarge us-east-1 4 8GB T4G:16GB:1 arm $0.42",
		"g6x.12xlarge us-east-1 48 192GB L4:24GB:4 $4.6",
		"g7.2xlarge us-east-1 8 32GB RTXPRO4500:32GB:1 $1.3",
		"g7e.2xlarge us-east-1 8 64GB RTXPRO6000:96GB:1 $3.3",
		"p6-b200.48xlarge us-west-2 192 2048GB B200:180GB:8 $113.93",
	)
	slices.Sort(want)
	if diff := cmp.Diff(want, listed(got.List)); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	left := []string{"X9", "c7x.large", "c7y.large", "c7z.large", "g6f.large", "g9.large", "gr6f.4xlarge", "inf2.xlarge", "m3.medium", "mac9.metal", "x9.large"}
	if diff := cmp.Diff(left, got.LeftOut.Names); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"us-east-1", "us-west-2"}, a.asked); diff != "" {
		t.Errorf("the order of regions (-want +got):\n%s", diff)
	}
}

// Regions that do not answer are passed over: others may know the types.
func TestAWSTypesOfOtherRegions(t *testing.T) {
	refuse := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `<Response><Errors><Error><Code>AuthFailure</Code></Error></Errors></Response>`, http.StatusUnauthorized)
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, silent := range map[string]http.HandlerFunc{"it refuses": refuse, "it hangs": hang} {
		t.Run(name, func(t *testing.T) {
			a := &awsAccount{
				file: priced() + awsLine("c8g.large", "me-south-1", "0.09", "2", "4", "") + awsLine("g5g.xlarge", "me-south-1", "0.5", "4", "8", "1") +
					awsLine("g5g.xlarge", "eu-west-1", "0.5", "4", "8", "1"),
				types: map[string]map[string]string{"eu-west-1": {"g5g.xlarge": xmlArm + xmlGPU("T4g", 1, 16384, "1.0")}, "us-west-2": {"c8g.large": xmlArm}},
				ec2: func(region string) http.HandlerFunc {
					if region == "us-east-1" || region == "me-south-1" {
						return silent
					}
					return nil
				},
			}
			got, err := a.collect(t, credentials)
			if err != nil || got.NoAccount != nil {
				t.Fatal(err, got.NoAccount)
			}
			want := []string{
				"c8g.large me-south-1 2 4GB arm $0.09", "c8g.large us-east-1 2 4GB arm $0.08", "c8g.large us-west-2-lax-1 2 4GB arm $0.1",
				"g5g.xlarge eu-west-1 4 8GB T4G:16GB:1 arm $0.5", "g5g.xlarge me-south-1 4 8GB T4G:16GB:1 arm $0.5", "g5g.xlarge us-east-1 4 8GB T4G:16GB:1 arm $0.42",
				"g6.xlarge us-east-1 4 16GB L4:24GB:1 $0.8048", "m5.large us-east-1 2 8GB $0.096",
			}
			if diff := cmp.Diff(want, listed(got.List)); diff != "" {
				t.Errorf("the list differs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"us-east-1", "me-south-1", "us-west-2", "eu-west-1"}, a.asked); diff != "" {
				t.Errorf("the order of regions (-want +got):\n%s", diff)
			}
		})
	}
}

// What EC2 does not answer, or answers wrongly, costs the list nothing that it has without.
func TestAWSWithoutItsAccount(t *testing.T) {
	say := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = io.WriteString(w, body) }
	}
	for name, tt := range map[string]struct {
		ec2  http.HandlerFunc
		want string // of the reason
	}{
		"it refuses":        {say(http.StatusForbidden, `<Code>UnauthorizedOperation</Code>`), "credentials rejected: <Code>UnauthorizedOperation"},
		"it is down":        {say(http.StatusServiceUnavailable, "down"), "status 503: down"},
		"it hangs":          {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer in 30s"},
		"not XML":           {say(http.StatusOK, `{"a": 1}`), "the answer is not what the provider documents"},
		"many elements":     {say(http.StatusOK, strings.Repeat("<a/>", 2*maxElements+1)), "has more than 50000 elements"},
		"pages without end": {say(http.StatusOK, `<a><instanceTypeSet/><nextToken>again</nextToken></a>`), "pages about"},
		"it sends us elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
		}, "elsewhere.example, which gets no credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &awsAccount{file: priced(), ec2: func(string) http.HandlerFunc { return tt.ec2 }}
			got, err := a.collect(t, credentials)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"g6.xlarge us-east-1 4 16GB L4:24GB:1 $0.8048", "m5.large us-east-1 2 8GB $0.096"}, listed(got.List)); diff != "" {
				t.Errorf("the list differs (-want +got):\n%s", diff)
			}
			if got.NoAccount == nil || !strings.Contains(got.NoAccount.Error(), tt.want) {
				t.Errorf("the account told nothing for %v, want %q", got.NoAccount, tt.want)
			}
			if want := []string{"us-east-1", "us-west-2"}; !cmp.Equal(want, a.asked) {
				t.Errorf("%v were asked, want %v", a.asked, want)
			}
		})
	}
}

// However many types and places a file has, what is kept of it is bounded.
func TestAWSOthersAreBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		rows, types int                                   // that are kept
		row         func(n int) (instance, region string) // the n-th
	}{
		"many types":  {maxAWSOthers, maxAWSOthers, func(n int) (string, string) { return fmt.Sprintf("x%d.large", n), "us-east-1" }},
		"many places": {pricelist.MaxRows, 100, func(n int) (string, string) { return fmt.Sprintf("x%d.large", n%100), fmt.Sprintf("us-east-%d", n/100) }},
	} {
		t.Run(name, func(t *testing.T) {
			others, refused := &awsOthers{prices: map[string]awsPrices{}}, 0
			for n := range tt.rows + 5 {
				instance, region := tt.row(n)
				cells := map[string]string{"Instance Type": instance, "Region Code": region, "PricePerUnit": "1", "vCPU": "2", "Memory": "8 GiB"}
				if !others.keep(func(name string) string { return cells[name] }) {
					refused++
				}
			}
			if others.rows != tt.rows || len(others.prices) != tt.types || refused != 5 {
				t.Errorf("%d rows of %d types are kept, %d refused", others.rows, len(others.prices), refused)
			}
		})
	}
}

// What is said at length, or of types that nobody asked about, is not kept.
func TestAWSDescriptionsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 1000)
	many := strings.Repeat("<item>x86_64</item>", 20)
	for name, about := range map[string]string{
		"a long name": xmlX86 + xmlGPU("L4 "+long, 1, 22888, ""), "a long part": xmlX86 + xmlGPU("L4", 1, 22888, long),
		"many words":  `<processorInfo><supportedArchitectures>` + many + `</supportedArchitectures></processorInfo>`,
		"a long word": `<processorInfo><supportedArchitectures><item>x86_64</item><item>` + long + `</item></supportedArchitectures></processorInfo>`,
		"many GPUs":   xmlX86 + `<gpuInfo><gpus>` + strings.Repeat(`<item><name>L4</name></item>`, 20) + `</gpus></gpuInfo>`,
	} {
		a := &awsAccount{t: t}
		a.ec2 = func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `<a><instanceTypeSet><item><instanceType>x9.large</instanceType>%s</item><item><instanceType>m5.large</instanceType>%s</item></instanceTypeSet></a>`, about, xmlX86)
			}
		}
		c := settings(a, known(t))
		c.Credentials, c.Received = credentials, new(atomic.Int64)
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(today))
			got, err := source(t, "aws").session(c, "", today).account(awsEC2).awsDescribe(t.Context(), "us-east-1", []string{"x9.large"})
			if err != nil || len(got) > 0 {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		})
	}
}

// Whatever EC2 says, types that it does not describe in order are left out.
func FuzzAWSTypes(f *testing.F) {
	for name, about := range described()["us-east-1"] {
		f.Add("<a><instanceTypeSet><item><instanceType>" + name + "</instanceType>" + about + "</item></instanceTypeSet></a>")
	}
	f.Fuzz(func(t *testing.T, text string) {
		var answer awsDescribed
		if xml.Unmarshal([]byte(text), &answer) != nil {
			return
		}
		tr, others, found := &tray{provider: "aws", asOf: "2026-11-25"}, &awsOthers{prices: map[string]awsPrices{}}, map[string]awsType{}
		if err := tr.aws(strings.NewReader(awsHead+priced()), nil, others); err != nil {
			t.Fatal(err)
		}
		for _, a := range answer.Types {
			found[a.Name] = a
		}
		tr.awsOthers(others, found)
		if err := tr.list.List().Encode(io.Discard); err != nil {
			t.Error(err)
		}
	})
}
