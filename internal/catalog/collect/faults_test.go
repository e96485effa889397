package collect

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/backend"
	"dstack/internal/catalog/pricelist"
)

// plan is one of Vultr's, with what a test changes.
func plan(id, price string) string {
	name, err := json.Marshal(id)
	if err != nil {
		panic(err) // it is a text
	}
	return fmt.Sprintf(`{"id": %s, "vcpu_count": 1, "ram": 1024, "disk": 25, "hourly_cost": %s, "type": "vc2", "locations": ["ewr"]}`, name, price)
}

const aGPU = `{"id": "vcg-a100", "vcpu_count": 12, "ram": 122880, "disk": 1400, "hourly_cost": 2.397, "type": "vcg", "gpu_type": "NVIDIA_A100", "gpu_vram_gb": 80, "locations": ["ewr"]}`

// What is not in order is refused, with the row where it is one.
func TestHostileAnswers(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{
		"a negative price":          {`{"plans": [` + plan("a", "1") + "," + plan("b", "-1") + `]}`, "vultr: row 2: price: -1 is not 0.0001 to 100000"},
		"no number":                 {`{"plans": [` + plan("a", `"NaN"`) + `]}`, "vultr: row 1: price: NaN is not 0.0001 to 100000"},
		"an infinite price":         {`{"plans": [` + plan("a", `"Inf"`) + `]}`, "vultr: row 1: price: +Inf is not 0.0001 to 100000"},
		"twice the same":            {`{"plans": [` + plan("a", "1") + "," + plan("a", "2") + `]}`, `vultr: row 2: instance_name: a in "ewr" is there twice`},
		"twice, one is false":       {`{"plans": [` + strings.Replace(plan("a", "1"), "1024", "9999", 1) + "," + plan("a", "1") + `]}`, `vultr: row 2: instance_name: a in "ewr" is there twice`},
		"many empty rows":           {`{"plans": [` + strings.Repeat("{},", maxItems+1) + `{}]}`, "it lists more than 300000 things"},
		"a name that moves cursors": {`{"plans": [` + plan("a\x1b[2J", "1") + `]}`, `vultr: row 1: instance_name: "a\x1b[2J" is not a name`},
		"a name without end":        {`{"plans": [` + plan(strings.Repeat("a", 1000), "1") + `]}`, "is not a name of 1 to 200 bytes"},
		"endless memory":            {`{"plans": [` + strings.Replace(plan("a", "1"), "1024", "1e300", 1) + `]}`, "vultr: row 1: memory: -1 MiB is not 1 to"},
		"cut off":                   {`{"plans": [` + plan("a", "1"), "the answer is not what the provider documents"},
		"not JSON":                  {`<html>`, "the answer is not what the provider documents"},
		"nothing":                   {`{}`, "there are 0 rows, fewer than 1"},
		"no GPUs":                   {`{"plans": [` + plan("a", "1") + `]}`, "there is no A100"},
		"only unknown GPUs":         {`{"plans": [` + strings.ReplaceAll(aGPU, "A100", "X9") + `]}`, "there are 0 rows, fewer than 1"},
		"only GPUs":                 {`{"plans": [` + aGPU + `]}`, "there are no types without GPUs"},
		"pages without end":         {`{"meta": {"links": {"next": "again"}}}`, "there are more than 1000 pages"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := gather(t, "vultr", func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "metal") {
					_, _ = io.WriteString(w, `{}`)
					return
				}
				_, _ = io.WriteString(w, tt.body)
			})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// What is listed without a price is counted, and names that turn a text around are shown without
// what does so.
func TestWithoutPrice(t *testing.T) {
	tr := &tray{provider: "vultr", asOf: "2026-11-25"}
	if err := tr.vultr(vultrPage{Plans: []vultrPlan{{ID: "a", Type: "vc2", VCPUs: 1, RAM: 1024, Locations: []string{"ewr"}}}}); err != nil || tr.free != 1 {
		t.Errorf("vultr: error %v, %d rows without a price", err, tr.free)
	}
	tr = &tray{provider: "runpod", asOf: "2026-11-25"}
	var gpus []runpodGPU
	if err := json.Unmarshal([]byte(`[{"id": "NVIDIA A40", "memoryInGb": 48, "securePrice": 0, "lowestPrice": {"stockStatus": "High", "minVcpu": 8, "minMemory": 50}},
		{"id": "X\u202e9", "memoryInGb": 48, "securePrice": 1, "lowestPrice": {"stockStatus": "High", "minVcpu": 8, "minMemory": 50}}]`), &gpus); err != nil {
		t.Fatal(err)
	}
	if err := tr.runpodGPUs(runpodQuestion{runpodPlace{"US-TX-3", true}, 1}, gpus); err != nil || tr.free != 1 {
		t.Errorf("runpod: error %v, %d rows without a price", err, tr.free)
	}
	if diff := cmp.Diff([]string{"X 9"}, tr.leftOut().Names); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
}

// endless is a body of some size that costs no memory.
type endless struct{ rest int64 }

func (e *endless) Read(p []byte) (int, error) {
	n := min(int64(len(p)), e.rest)
	if n == 0 {
		return 0, io.EOF
	}
	for i := range p[:n] {
		p[i] = ' '
	}
	e.rest -= n
	return int(n), nil
}

type always struct{ body func() io.Reader }

func (a always) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(a.body())}, nil
}

func TestHugeAnswers(t *testing.T) {
	c := settings(nil, known(t))
	c.Transport = always{func() io.Reader { return &endless{10 * maxAnswer} }}
	_, err := Collect(t.Context(), c, source(t, "vultr"), today)
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v, want that it is too large", err)
	}
}

// Sources that ask many things at a time have little memory for each answer.
func TestManyAnswers(t *testing.T) {
	for _, name := range []string{"azure", "runpod"} {
		for what, body := range map[string]string{
			"lists more than 100000 things": `{"Items": [` + strings.Repeat("{},", 100_001) + `{}]}`,
			"larger than 4194304 bytes":     strings.Repeat(" ", 4<<20) + "{}",
		} {
			_, err := gather(t, name, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
			if err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v, want %q", name, err, what)
			}
		}
	}
}

// Millions of rows end at the most that a list may have.
func TestManyRows(t *testing.T) {
	tr := &tray{provider: "vultr", asOf: "2026-11-25"}
	r := pricelist.Row{Instance: "a", CPUs: 1, MemoryMiB: 1024, Price: 1}
	for i := range 10_000_000 {
		r.Region, r.Instance = fmt.Sprint("r", i%1000), fmt.Sprint("a", i/1000)
		if err := tr.add(r); err != nil {
			if i != pricelist.MaxRows || !strings.HasPrefix(err.Error(), "vultr: row 500001: there are more than 500000 rows") {
				t.Errorf("row %d: %v", i, err)
			}
			return
		}
	}
	t.Error("ten million rows were taken")
}

func TestOutages(t *testing.T) {
	good := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "metal") {
			_, _ = io.WriteString(w, `{}`)
			return
		}
		fmt.Fprintf(w, `{"plans": [%s, %s]}`, plan("a", "1"), aGPU)
	}
	for name, tt := range map[string]struct {
		double func(n int) http.HandlerFunc // of the n-th request
		took   time.Duration                // at least
		want   string
	}{
		"it asks to wait": {func(n int) http.HandlerFunc {
			if n == 1 {
				return func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Retry-After", "7")
					w.WriteHeader(http.StatusTooManyRequests)
				}
			}
			return good
		}, 7 * time.Second, ""},
		"it fails twice": {func(n int) http.HandlerFunc {
			if n <= 2 {
				return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) }
			}
			return good
		}, time.Second, ""},
		"it fails for good": {func(int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) }
		}, 0, "status 503: down"},
		"it refuses": {func(int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.Error(w, "who are you", http.StatusForbidden) }
		}, 0, "credentials rejected: who are you"},
		"it hangs": {func(int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}, answerLimit, "no answer in 30s"},
	} {
		t.Run(name, func(t *testing.T) {
			k := known(t)
			synctest.Test(t, func(t *testing.T) {
				n, began := 0, time.Now()
				c := settings(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					n++
					tt.double(n)(w, r)
				}), k)
				_, err := Collect(t.Context(), c, source(t, "vultr"), today)
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				if took := time.Since(began); took < tt.took || took > 2*time.Minute {
					t.Errorf("took %v, want %v or a little more", took, tt.took)
				}
			})
		})
	}
}

func TestWhatItNeeds(t *testing.T) {
	c := settings(http.NotFoundHandler(), known(t))
	c.Env = func(name string) string {
		return map[string]string{"VERDA_CLIENT_ID": "id", "DSTACK_ENDPOINT_VULTR": "ftp://x"}[name]
	}
	for provider, want := range map[string]string{
		"verda":  "collect the prices of verda: set VERDA_CLIENT_SECRET",
		"vultr":  "DSTACK_ENDPOINT_VULTR is not a base URL",
		"nebius": "set NEBIUS_SERVICE_ACCOUNT_ID and NEBIUS_PUBLIC_KEY_ID and NEBIUS_PRIVATE_KEY_FILE, or NEBIUS_CREDENTIALS_FILE, or NEBIUS_IAM_TOKEN",
	} {
		if _, err := Collect(t.Context(), c, source(t, provider), today); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", provider, err, want)
		}
	}
}

// The environment says where a provider is: here at a double that listens.
func TestEndpoint(t *testing.T) {
	asked := ""
	c := settings(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		http.Error(w, "no", http.StatusForbidden)
	}), known(t))
	c.Env = func(name string) string {
		return map[string]string{"DSTACK_ENDPOINT_VULTR": "http://127.0.0.1:4010/v2/"}[name]
	}
	if _, err := Collect(t.Context(), c, source(t, "vultr"), today); !errors.Is(err, backend.ErrAuth) {
		t.Errorf("%v, want %v", err, backend.ErrAuth)
	}
	if want := "http://127.0.0.1:4010/v2/plans?type=all&per_page=500"; asked != want {
		t.Errorf("asked for %s, want %s", asked, want)
	}
}

// Credentials stay with the provider that they are for.
func TestRedirects(t *testing.T) {
	var hosts []string
	c := settings(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts = append(hosts, r.URL.Host)
		http.Redirect(w, r, "https://elsewhere.example"+r.URL.Path, http.StatusMovedPermanently)
	}), known(t))
	for provider, want := range map[string]string{
		"amddevcloud": "it sends us to elsewhere.example, which gets no credentials: set DSTACK_ENDPOINT_AMDDEVCLOUD to go there",
		"vultr":       "it sent us elsewhere more than 5 times",
	} {
		hosts = nil
		_, err := Collect(t.Context(), c, source(t, provider), today)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", provider, err, want)
		}
		if provider == "amddevcloud" && len(hosts) != 1 {
			t.Errorf("credentials went to %v", hosts)
		}
	}
}

// archive is a published catalog.
func archive(t *testing.T, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	f, err := z.Create(name)
	if err == nil {
		_, err = io.WriteString(f, text)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPublished(t *testing.T) {
	const rows = "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size\n" +
		"gpu_1x_a10,us-west-1,1.29,30,200,1,A10,24,False,1400\ngpu_1x_a100,us-west-1,1.99,30,200,1,A100,40,False,1400\ngpu_1x_h100,us-west-1,3.29,30,200,1,H100,80,False,1400\n"
	for name, tt := range map[string]struct {
		version, file string
		want, asOf    string // the error, or the date
		rows          string // "": those above
	}{
		"cut down":           {version: "20261101-77", file: "lambdalabs.csv", want: "there is no", rows: rows[:strings.Index(rows, "gpu_1x_a100")]},
		"as published":       {version: "20261101-77\n", file: "lambdalabs.csv", asOf: "2026-11-01"},
		"an undated version": {version: "nightly", file: "lambdalabs.csv", asOf: "2026-11-25"},
		"a day to come":      {version: "20990101-1", file: "lambdalabs.csv", want: "version 20990101-1 is of a day to come"},
		"another time zone":  {version: "20261126-1", file: "lambdalabs.csv", asOf: "2026-11-26"},
		"a path":             {version: "../../secret", file: "lambdalabs.csv", want: `"../../secret" is not a version`},
		"another provider's": {version: "20261101-77", file: "vultr.csv", want: "they are of vultr"},
	} {
		t.Run(name, func(t *testing.T) {
			k := known(t)
			text := rows
			if tt.rows != "" {
				text = tt.rows
			}
			synctest.Test(t, func(t *testing.T) {
				c := settings(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/v3/lambdalabs/version":
						_, _ = io.WriteString(w, tt.version)
					case "/v3/lambdalabs/" + strings.TrimSpace(tt.version) + "/catalog.zip":
						_, _ = w.Write(archive(t, tt.file, text))
					default:
						t.Errorf("asked for %s", r.URL)
					}
				}), k)
				c.Catalogs, c.Env = "https://catalogs.example/v3/", func(string) string { return "" }
				got, err := Collect(t.Context(), c, small(source(t, "lambda")), today)
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("%v, want %q", err, tt.want)
				}
				if err != nil {
					return
				}
				if _, newest := got.List.Dates(); newest != tt.asOf || got.List.Len() != 3 {
					t.Errorf("%d rows of %s, want three of %s", got.List.Len(), newest, tt.asOf)
				}
			})
		})
	}
}

// Memories that providers report, or that the original's table has, are those that GPUs are sold
// with (catalog 6, 11).
func TestGPUs(t *testing.T) {
	for name, tt := range map[string]struct {
		gib, want float64 // reported, 0 for not said; GiB in the list, 0 for left out
		gpu       string
	}{
		"A10G":                    {22.35, 24, "A10G"},
		"L40S":                    {44.70, 48, "L40S"},
		"NVIDIA B200":             {179.06, 180, "B200"},
		"B300 SXM6":               {268.59, 270, "B300"},
		"NVIDIA H100 80GB HBM3":   {79.65, 80, "H100"},
		"AMD Instinct MI325X OAM": {288, 256, "MI325X"},
		"MI325X":                  {256, 256, "MI325X"},
		"amd_mi300x":              {192, 192, "MI300X"},
		"NVIDIA RTX 6000 24GB":    {0, 24, "RTX6000"},
		"RTX PRO 6000":            {96, 96, "RTXPRO6000"},
		"A100":                    {0, 0, ""}, // of two sizes
		"X9":                      {80, 0, ""},
	} {
		got, ok := new(tray).gpu(name, tt.gib)
		if ok != (tt.want > 0) || got.Name != tt.gpu || float64(got.MemoryMiB)/1024 != tt.want {
			t.Errorf("%s with %v GiB is %+v, %v", name, tt.gib, got, ok)
		}
	}
}

func TestShelf(t *testing.T) {
	dated := func(backend string, price float64, asOf string) *pricelist.List {
		var b pricelist.Builder
		if err := b.Add(pricelist.Row{Backend: backend, Instance: "a", Region: "r", CPUs: 1, MemoryMiB: 1024, Arch: "x86", Price: price, AsOf: asOf}); err != nil {
			t.Fatal(err)
		}
		return b.List()
	}
	list := func(backend string, price float64) *pricelist.List { return dated(backend, price, "2026-11-25") }
	s := Shelf{filepath.Join(t.TempDir(), "new", "catalog")}
	if lists, err := s.Lists(today); err != nil || len(lists) != 0 {
		t.Fatalf("before anything is kept: %v, %v", lists, err)
	}
	named := func(name string) Source {
		all := Sources()
		return all[slices.IndexFunc(all, func(s Source) bool { return s.Name() == name })]
	}
	for _, price := range []float64{1, 2} {
		if err := s.Put(named("vultr"), list("vultr", price), today); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(named("vultr"), dated("vultr", 9, "2026-11-24"), today); err == nil || !strings.Contains(err.Error(), "those of 2026-11-24 are older than those that are kept, of 2026-11-25") {
		t.Errorf("older prices: %v", err)
	}
	if err := s.Put(named("oci"), list("aws", 1), today); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(named("aws-spot"), list("aws", 1), today); err != nil { // on demand
		t.Fatal(err)
	}
	if err := s.Put(named("hotaisle"), dated("hotaisle", 1, "2099-01-01"), today); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(named("hotaisle"), dated("hotaisle", 4, "2026-11-25"), today); err != nil { // instead of what cannot be used
		t.Fatal(err)
	}
	if err := s.Put(named("verda"), dated("verda", 1, "2099-01-01"), today); err != nil { // a clock was wrong
		t.Fatal(err)
	}
	if err := s.Put(named("runpod"), dated("runpod", 3, "2026-11-26"), today); err != nil { // in another time zone
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "lambda.prices"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	lists, err := s.Lists(today)
	got := map[string][]string{}
	for name, l := range lists {
		got[name] = listed(l)
	}
	if diff := cmp.Diff(map[string][]string{"vultr": {"a r 1 1GB $2"}, "hotaisle": {"a r 1 1GB $4"}, "runpod": {"a r 1 1GB $3"}}, got); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	for _, want := range []string{"read the prices of lambda: the list of prices is damaged", "read the prices of oci: it has prices of others",
		"read the prices of aws-spot: it has prices of others", "read the prices of verda: it is of 2099-01-01, a day to come"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(s.Dir, ".*")); len(names) > 0 {
		t.Errorf("%v were left", names)
	}
}
