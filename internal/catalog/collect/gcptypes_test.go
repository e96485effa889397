package collect

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
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
	"dstack/internal/offer"
)

// gcpDouble is a double of Google's prices, its login and the APIs that a project may ask.
type gcpDouble struct {
	t       *testing.T
	key     *rsa.PublicKey
	answers map[string]string           // by host and path, with the token of the page if there is one
	instead map[string]http.HandlerFunc // by host
}

const gcpSecret = "ya29.a-token-of-an-hour"

func (g *gcpDouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	let := r.Header.Get("Authorization") == "Bearer "+gcpSecret
	switch {
	case r.URL.Host == "cloudbilling.googleapis.com":
		if key := r.Header.Get("X-Goog-Api-Key"); let == (key == "key") || !let && r.Header.Get("Authorization") != "" {
			g.t.Errorf("prices are asked for with %v", r.Header)
		}
	case r.URL.Host == "oauth2.googleapis.com" && r.Header.Get("Authorization") == "":
		g.checkAssertion(r)
	case !let || r.Header.Get("X-Goog-Api-Key") != "":
		g.t.Errorf("%s is asked with %v", r.URL, r.Header)
	}
	if f := g.instead[r.URL.Host]; f != nil {
		f(w, r)
		return
	}
	if r.URL.Host == "oauth2.googleapis.com" {
		fmt.Fprintf(w, `{"access_token": %q, "expires_in": 3599, "token_type": "Bearer"}`, gcpSecret)
		return
	}
	key := r.URL.Host + r.URL.Path
	if token := r.URL.Query().Get("pageToken"); token != "" {
		key += " " + token
	}
	answer, ok := g.answers[key]
	if !ok {
		http.Error(w, `{"error": {"message": "not found"}}`, http.StatusNotFound)
		return
	}
	_, _ = io.WriteString(w, answer)
}

// checkAssertion verifies that who asks is the service account.
func (g *gcpDouble) checkAssertion(r *http.Request) {
	parts := strings.Split(r.FormValue("assertion"), ".")
	if r.URL.Path != "/token" || r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || len(parts) != 3 {
		g.t.Errorf("asked for %s, %v", r.URL, r.Form)
		return
	}
	var claims struct {
		Issuer   string `json:"iss"`
		Audience string `json:"aud"`
		Scope    string
		From     int64 `json:"iat"`
		Until    int64 `json:"exp"`
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(text, &claims)
	}
	signature, signErr := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err != nil || signErr != nil || rsa.VerifyPKCS1v15(g.key, crypto.SHA256, sum[:], signature) != nil {
		g.t.Errorf("the signature is not of this assertion: %s", text)
	}
	if claims.Issuer != "robot@acme.example" || claims.Audience != "https://oauth2.googleapis.com/token" || claims.Scope != gcpScope ||
		claims.From != time.Now().Unix() || claims.Until != claims.From+3600 {
		g.t.Errorf("claims %s", text)
	}
}

// gcpKeyIn writes the key of the service account as Google's console does.
func gcpKeyIn(t testing.TB, dir, kind, pem string) string {
	text, err := json.Marshal(map[string]string{
		"type": kind, "project_id": "acme", "private_key_id": "1", "private_key": pem, "client_email": "robot@acme.example", "token_uri": "https://elsewhere.example/token",
	})
	path := filepath.Join(dir, "key.json")
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// gcpWith are credentials with a key file.
func gcpWith(path string) func(string) string {
	return func(name string) string {
		return map[string]string{"GCP_API_KEY": "key", gcpKeyFile: path, gcpProject: "acme"}[name]
	}
}

func (g *gcpDouble) collect(t *testing.T, env func(string) string) (got Collection, err error) {
	t.Helper()
	key, err := readOCIKey(exampleKey(t))
	if err != nil {
		t.Fatal(err)
	}
	g.key = &key.PublicKey
	k := known(t)
	synctest.Test(t, func(t *testing.T) {
		g.t = t
		c := settings(g, k)
		c.Env = env
		got, err = Collect(t.Context(), c, small(source(t, "gcp")), today)
	})
	return got, err
}

// machine is a type as the API describes it.
func machine(name string, cpus, mib int, more string) string {
	return fmt.Sprintf(`{"kind": "compute#machineType", "id": "1", "name": %q, "guestCpus": %d, "memoryMb": %d, "isSharedCpu": false, "architecture": "X86_64"%s}`, name, cpus, mib, more)
}

func gpuOf(kind string, count int) string {
	return fmt.Sprintf(`, "accelerators": [{"guestAcceleratorType": %q, "guestAcceleratorCount": %d}]`, kind, count)
}

// gcpAnswers are what the double says in order: prices in two regions, one of which the program does not know.
func gcpAnswers() map[string]string {
	var skus []string
	for _, usage := range []string{"OnDemand", "Preemptible"} {
		usd, prefix, suffix := 1.0, "", " GPU running in Americas"
		if usage == "Preemptible" {
			usd, prefix, suffix = 0.25, "Spot Preemptible ", " GPU attached to Spot Preemptible VMs running in Americas"
		}
		for _, family := range []string{"N2", "E2", "G2", "A2", "A3", "N1 Predefined", "N2D AMD", "M4", "C4"} {
			skus = append(skus, gcpItem("Compute", "CPU", usage, prefix+family+" Instance Core running in Americas", usd*0.04), gcpItem("Compute", "RAM", usage, prefix+family+" Instance Ram running in Americas", usd*0.004))
		}
		for _, gpu := range []string{"L4", "Tesla A100 80GB", "H100 80GB", "Tesla T4", "Tesla V100"} {
			skus = append(skus, gcpItem("Compute", "GPU", usage, "Nvidia "+gpu+suffix, usd))
		}
		skus = append(skus, gcpItem("Storage", "LocalSSD", usage, "SSD backed Local Storage", usd*0.073))
	}
	skus = append(skus,
		gcpItem("Compute", "GPU", "OnDemand", "Nvidia L4 GPU attached to DWS Defined Duration VMs running in Americas", 0.5),
		gcpItem("Compute", "TPU", "OnDemand", "TpuV5e running in Iowa", 1.2), gcpItem("Compute", "TPU", "OnDemand", "Capacity Optimized TpuV5e running in Iowa", 2))
	all := strings.ReplaceAll(strings.Join(skus, ","), `["us-central1"]`, `["us-central1", "moon-east1"]`)
	return map[string]string{
		"cloudbilling.googleapis.com/v1/services/6F81-5844-456A/skus": `{"skus": [` + all + `]}`,
		"cloudbilling.googleapis.com/v1/services/E000-3F24-B8AA/skus": `{}`,
		"compute.googleapis.com/compute/v1/projects/acme/aggregated/machineTypes": `{"items": {
			"zones/us-central1-a": {"machineTypes": [` + strings.Join([]string{
			machine("n2-standard-2", 2, 8192, ""), machine("n2-standard-4", 4, 16384, ""), machine("g2-standard-4", 4, 16384, gpuOf("nvidia-l4", 1)),
			machine("n1-standard-1", 1, 3840, ""), machine("n1-standard-16", 16, 61440, ""), machine("n1-highmem-8", 8, 53248, ""), machine("n1-standard-64", 64, 245760, ""),
			machine("n2-standard-9", 9, 1024, `, "deprecated": {"state": "DEPRECATED"}`), machine("n2d-standard-2", 2, 8192, ""), machine("x9-mega", 2, 8192, gpuOf("nvidia-x9", 1)),
		}, ",") + `]},
			"zones/us-central1-f": {"machineTypes": [` + machine("n2-standard-2", 2, 8192, "") + "," + machine("n2-standard-4", 4, 16384, "") + `]},
			"zones/us-central1-b": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}, "global": {"machineTypes": [` + machine("n2-standard-6", 6, 1024, "") + `]}}, "nextPageToken": "more"}`,
		"compute.googleapis.com/compute/v1/projects/acme/aggregated/machineTypes more": `{"items": {
			"zones/moon-east1-ai1a": {"machineTypes": [` + strings.Join([]string{
			machine("n2-standard-2", 2, 8192, ""), machine("a3-highgpu-4g", 104, 958464, gpuOf("nvidia-h100-80gb", 4)), machine("n1-standard-1", 1, 3840, ""),
			machine("m4-ultramem-224", 224, 6094848, ""), machine("c4-standard-4-lssd", 4, 15360, `, "bundledLocalSsds": {"partitionCount": 1}`),
		}, ",") + `]}}}`,
		"compute.googleapis.com/compute/v1/projects/acme/aggregated/acceleratorTypes": `{"items": {
			"zones/us-central1-a": {"acceleratorTypes": [{"name": "nvidia-tesla-t4", "maximumCardsPerInstance": 4}, {"name": "nvidia-tesla-v100"}, {"name": "nvidia-tesla-k80"}, {"name": "nvidia-tesla-t4-vws"}]},
			"zones/us-central1-f": {"acceleratorTypes": [{"name": "nvidia-tesla-t4"}]},
			"zones/moon-east1-ai1a": {"acceleratorTypes": [{"name": "nvidia-tesla-v100", "deprecated": {"state": "OBSOLETE"}}]}}}`,
		"tpu.googleapis.com/v2/projects/acme/locations":                                     `{"locations": [{"locationId": "us-central1-b"}, {"locationId": "us-central1-x"}, {"locationId": "../.."}]}`,
		"tpu.googleapis.com/v2/projects/acme/locations/us-central1-b/acceleratorTypes":      `{"acceleratorTypes": [{"type": "v2-8"}, {"type": "v9-1"}], "nextPageToken": "more"}`,
		"tpu.googleapis.com/v2/projects/acme/locations/us-central1-b/acceleratorTypes more": `{"acceleratorTypes": [{"type": "v5litepod-4"}]}`,
	}
}

// zoned are the rows of a list as offers, with their zones.
func zoned(got Collection) []string {
	var lines []string
	for _, o := range got.List.Offers("gcp", offer.Query{}) {
		line := fmt.Sprintf("%s %s %v %d %s", o.Instance, o.Region, o.Zones, o.Resources.CPUs, gib(o.Resources.MemoryMiB))
		if n := len(o.Resources.GPUs); n > 0 {
			line += fmt.Sprintf(" %s:%d", o.Resources.GPUs[0].Name, n)
		}
		if o.Resources.Spot {
			line += " spot"
		}
		lines = append(lines, line+fmt.Sprintf(" $%g", o.Price))
	}
	slices.Sort(lines)
	return lines
}

// With an account, types are listed in their zones, those that the program does not know too, and machines with
// the GPUs that can be attached to them; what the account does not name stays.
func TestGCPTypes(t *testing.T) {
	key := gcpKeyIn(t, t.TempDir(), "service_account", exampleKey(t))
	without, err := (&gcpDouble{answers: gcpAnswers()}).collect(t, credentials)
	if err != nil || without.NoAccount != nil {
		t.Fatal(err, without.NoAccount)
	}
	with, err := (&gcpDouble{answers: gcpAnswers()}).collect(t, gcpWith(key))
	if err != nil || with.NoAccount != nil {
		t.Fatal(err, with.NoAccount)
	}
	before := []string{
		"a2-ultragpu-1g us-central1 [] 12 170GB A100:1 $2.1975",
		"a3-highgpu-8g us-central1 [] 208 1872GB H100:8 $24.408",
		"e2-medium us-central1 [] 2 4GB $0.056",
		"g2-standard-4 us-central1 [] 4 16GB L4:1 $1.224",
		"n2-standard-2 us-central1 [] 2 8GB $0.112",
		"n2-standard-2 us-central1 [] 2 8GB spot $0.028",
		"v5litepod-4 us-central1 [] 112 192GB v5litepod-4:1 $4.8",
	}
	if diff := cmp.Diff(before, zoned(without)); diff != "" {
		t.Errorf("without an account (-want +got):\n%s", diff)
	}
	const iowa, both, moon = "us-central1 [us-central1-a]", "us-central1 [us-central1-a us-central1-f]", "moon-east1 [moon-east1-ai1a]"
	after := []string{
		"a2-ultragpu-1g us-central1 [] 12 170GB A100:1 $2.1975",
		"a3-highgpu-4g " + moon + " 104 936GB H100:4 spot $2.976",
		"a3-highgpu-8g us-central1 [] 208 1872GB H100:8 $24.408",
		"e2-medium us-central1 [] 2 4GB $0.056",
		"g2-standard-4 " + iowa + " 4 16GB L4:1 $1.224",
		"g2-standard-4 " + iowa + " 4 16GB L4:1 spot $0.306",
		"n1-highmem-8 " + iowa + " 8 52GB T4:1 $1.528", "n1-highmem-8 " + iowa + " 8 52GB T4:1 spot $0.382",
		"n1-highmem-8 " + iowa + " 8 52GB T4:2 $2.528", "n1-highmem-8 " + iowa + " 8 52GB T4:2 spot $0.632",
		"n1-highmem-8 " + iowa + " 8 52GB T4:4 $4.528", "n1-highmem-8 " + iowa + " 8 52GB T4:4 spot $1.132",
		"n1-highmem-8 " + iowa + " 8 52GB V100:1 $1.528", "n1-highmem-8 " + iowa + " 8 52GB V100:1 spot $0.382",
		"n1-highmem-8 " + iowa + " 8 52GB V100:2 $2.528", "n1-highmem-8 " + iowa + " 8 52GB V100:2 spot $0.632",
		"n1-highmem-8 " + iowa + " 8 52GB V100:4 $4.528", "n1-highmem-8 " + iowa + " 8 52GB V100:4 spot $1.132",
		"n1-highmem-8 " + iowa + " 8 52GB V100:8 $8.528", "n1-highmem-8 " + iowa + " 8 52GB V100:8 spot $2.132",
		"n2-standard-2 " + both + " 2 8GB $0.112", "n2-standard-2 " + both + " 2 8GB spot $0.028",
		"n2-standard-2 " + moon + " 2 8GB $0.112", "n2-standard-2 " + moon + " 2 8GB spot $0.028",
		"n2-standard-4 " + both + " 4 16GB $0.224", "n2-standard-4 " + both + " 4 16GB spot $0.056",
		"v5litepod-4 us-central1 [us-central1-b] 112 192GB v5litepod-4:1 $4.8",
	}
	for gpu, limits := range map[string][]int{"T4": {1, 2, 4}, "V100": {1, 2, 4, 8}} {
		for _, n := range limits {
			small, large := 0.055+float64(n), 0.88+float64(n)
			after = append(after, fmt.Sprintf("n1-standard-1 %s 1 3.75GB %s:%d $%g", iowa, gpu, n, small), fmt.Sprintf("n1-standard-1 %s 1 3.75GB %s:%d spot $%g", iowa, gpu, n, small/4))
			if gpu == "T4" || n > 1 {
				after = append(after, fmt.Sprintf("n1-standard-16 %s 16 60GB %s:%d $%g", iowa, gpu, n, large), fmt.Sprintf("n1-standard-16 %s 16 60GB %s:%d spot $%g", iowa, gpu, n, large/4))
			}
			if gpu == "T4" && n == 4 || n == 8 {
				after = append(after, fmt.Sprintf("n1-standard-64 %s 64 240GB %s:%d $%g", iowa, gpu, n, 3.52+float64(n)), fmt.Sprintf("n1-standard-64 %s 64 240GB %s:%d spot $%g", iowa, gpu, n, (3.52+float64(n))/4))
			}
		}
	}
	slices.Sort(after)
	if diff := cmp.Diff(after, zoned(with)); diff != "" {
		t.Errorf("with an account (-want +got):\n%s", diff)
	}
	left := []string{"a3-ultragpu-8g", "a4-highgpu-8g", "c4-standard-4-lssd", "m4-ultramem-224", "n2d-standard-2", "x9-mega"}
	if diff := cmp.Diff(left, with.LeftOut.Names); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
}

// The prices of later machines are of parts that are called otherwise; those that only spot instances have, and
// those of which no part has a price.
func TestGCPLaterTypes(t *testing.T) {
	answers := gcpAnswers()
	const prices, types = "cloudbilling.googleapis.com/v1/services/6F81-5844-456A/skus", "compute.googleapis.com/compute/v1/projects/acme/aggregated/machineTypes more"
	var skus []string
	for usage, usd := range map[string]float64{"OnDemand": 1, "Preemptible": 0.25} {
		prefix, attached := "", ""
		if usage == "Preemptible" {
			prefix, attached = "Spot Preemptible ", " attached to Spot Preemptible VMs"
		}
		for _, family := range []string{"A3Ultra", "H4D"} {
			skus = append(skus, gcpItem("Compute", "CPU", usage, prefix+family+" Instance Core running in Americas", usd*0.04), gcpItem("Compute", "RAM", usage, prefix+family+" Instance Ram running in Americas", usd*0.004))
		}
		skus = append(skus, gcpItem("Compute", "GPU", usage, "H200 141GB GPU"+attached+" running in Americas", usd*8))
	}
	skus = append(skus, gcpItem("Compute", "CPU", "OnDemand", "DWS Calendar Mode H4D Instance Core running in Americas", 9),
		gcpItem("Compute", "GPU", "OnDemand", "A4X Nvidia GB200 (1 gpu slice) running in Americas", 9))
	answers[types] = `{"items": {"zones/us-central1-c": {"machineTypes": [` + strings.Join([]string{
		machine("a3-ultragpu-8g", 224, 3022848, gpuOf("nvidia-h200-141gb", 8)+`, "bundledLocalSsds": {"partitionCount": 32}`),
		machine("a4x-highgpu-4g", 140, 905216, gpuOf("nvidia-gb200", 4)+`, "bundledLocalSsds": {"partitionCount": 4}`),
		machine("h4d-standard-192", 192, 737280, ""), machine("h4d-highmem-192-lssd", 192, 1523712, `, "bundledLocalSsds": {"partitionCount": 10}`),
	}, ",") + `]}}}`
	collected := func(more ...string) (rows, left []string) {
		answers[prices] = strings.Replace(gcpAnswers()[prices], `{"skus": [`, `{"skus": [`+strings.Join(append(more, skus...), ",")+",", 1)
		got, err := (&gcpDouble{answers: answers}).collect(t, gcpWith(gcpKeyIn(t, t.TempDir(), "service_account", exampleKey(t))))
		if err != nil || got.NoAccount != nil {
			t.Fatal(err, got.NoAccount)
		}
		rows = slices.DeleteFunc(zoned(got), func(row string) bool { return !strings.Contains(row, "us-central1-c") })
		return rows, got.LeftOut.Names
	}
	const zone = " us-central1 [us-central1-c] "
	want := []string{
		// With 12,000 GB of SSDs. It is on demand where the known list has it so.
		"a3-ultragpu-8g" + zone + "224 2952GB H200:8 $85.968", "a3-ultragpu-8g" + zone + "224 2952GB H200:8 spot $21.492",
		"h4d-highmem-192-lssd" + zone + "192 1488GB $14.007", "h4d-highmem-192-lssd" + zone + "192 1488GB spot $3.50175",
		"h4d-standard-192" + zone + "192 720GB $10.56", "h4d-standard-192" + zone + "192 720GB spot $2.64",
	}
	rows, left := collected()
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if !slices.Contains(left, "a4x-highgpu-4g") {
		t.Errorf("left out are %v, without what has no price", left)
	}
	rows, left = collected(gcpItem("Compute", "GPU", "Preemptible", "Spot Preemptible A4X Nvidia GB200 (1 gpu slice) running in Americas", 5))
	want = slices.Insert(want, 2, "a4x-highgpu-4g"+zone+"140 884GB GB200:4 spot $20")
	if diff := cmp.Diff(want, rows); diff != "" || slices.Contains(left, "a4x-highgpu-4g") {
		t.Errorf("with a price of GB200 (-want +got):\n%s", diff)
	}
}

// A service account does in place of an API key, without a project too.
func TestGCPWithoutAPIKey(t *testing.T) {
	key := gcpKeyIn(t, t.TempDir(), "service_account", exampleKey(t))
	with := func(names ...string) func(string) string {
		return func(name string) string {
			if !slices.Contains(names, name) {
				return ""
			}
			return gcpWith(key)(name)
		}
	}
	for _, names := range [][]string{{gcpKeyFile}, {gcpKeyFile, gcpProject}} {
		want, err := (&gcpDouble{answers: gcpAnswers()}).collect(t, with(append(names, gcpKey)...))
		if err != nil {
			t.Fatal(err)
		}
		got, err := (&gcpDouble{answers: gcpAnswers()}).collect(t, with(names...))
		if err != nil || got.NoAccount != nil {
			t.Fatal(err, got.NoAccount)
		}
		if diff := cmp.Diff(zoned(want), zoned(got)); diff != "" {
			t.Errorf("%v (-with a key +without):\n%s", names, diff)
		}
	}
	g := &gcpDouble{answers: gcpAnswers(), instead: map[string]http.HandlerFunc{"cloudbilling.googleapis.com": func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "not with "+r.Header.Get("Authorization"), http.StatusForbidden)
	}}}
	if _, err := g.collect(t, with(gcpKeyFile)); !errors.Is(err, backend.ErrAuth) || !strings.Contains(err.Error(), "not with Bearer ***") {
		t.Errorf("%v, want %v without the token", err, backend.ErrAuth)
	}
	_, err := (&gcpDouble{}).collect(t, with())
	if err == nil || !strings.Contains(err.Error(), "set GCP_API_KEY, or GOOGLE_APPLICATION_CREDENTIALS") {
		t.Errorf("without anything: %v", err)
	}
}

// Where the project may not ask for TPUs, or none of their zones answers, they are where the program knows them.
func TestGCPWithoutTPUs(t *testing.T) {
	key := gcpKeyIn(t, t.TempDir(), "service_account", exampleKey(t))
	for name, f := range map[string]http.HandlerFunc{
		"switched off": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "Cloud TPU API has not been used", http.StatusForbidden)
		},
		"they hang": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"no zone answers": func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/locations") {
				_, _ = io.WriteString(w, `{"locations": [{"locationId": "us-central1-b"}]}`)
				return
			}
			w.WriteHeader(http.StatusNotFound)
		},
		"too many zones": func(w http.ResponseWriter, _ *http.Request) {
			var all []string
			for n := range maxGCPZones + 1 {
				all = append(all, fmt.Sprintf(`{"locationId": "us-central1-z%d"}`, n))
			}
			fmt.Fprintf(w, `{"locations": [%s]}`, strings.Join(all, ","))
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gcpDouble{answers: gcpAnswers(), instead: map[string]http.HandlerFunc{"tpu.googleapis.com": f}}
			got, err := g.collect(t, gcpWith(key))
			if err != nil || got.NoAccount != nil {
				t.Fatal(err, got.NoAccount)
			}
			if rows := zoned(got); !slices.Contains(rows, "v5litepod-4 us-central1 [] 112 192GB v5litepod-4:1 $4.8") || len(rows) != 57 {
				t.Errorf("%d rows: %q", len(rows), rows)
			}
			if !slices.Contains(got.LeftOut.Names, "zones of TPUs") {
				t.Errorf("left out: %v", got.LeftOut.Names)
			}
		})
	}
}

// What an account does not say, or says wrongly, costs the list nothing that it has without.
func TestGCPWithoutItsAccount(t *testing.T) {
	say := func(host string, status int, body string) map[string]http.HandlerFunc {
		return map[string]http.HandlerFunc{host: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = io.WriteString(w, body) }}
	}
	const login, compute = "oauth2.googleapis.com", "compute.googleapis.com"
	without, err := (&gcpDouble{answers: gcpAnswers()}).collect(t, credentials)
	if err != nil {
		t.Fatal(err)
	}
	good := gcpKeyIn(t, t.TempDir(), "service_account", exampleKey(t))
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "key.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	named := func(name, value string) func(string) string {
		return func(asked string) string {
			if asked == name {
				return value
			}
			return gcpWith(good)(asked)
		}
	}
	zones := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`"zones/us-central1-z%d": {"machineTypes": [%s]}`, i, machine("n2-standard-2", 2, 8192, "")))
		}
		return strings.Join(all, ",")
	}
	types := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, machine(fmt.Sprintf("n2-standard-%d", i+100), 2, 8192, ""))
		}
		return strings.Join(all, ",")
	}
	for name, tt := range map[string]struct {
		env     func(string) string
		instead map[string]http.HandlerFunc
		want    string // of the reason
	}{
		"no file":          {gcpWith(filepath.Join(t.TempDir(), "none")), nil, "GOOGLE_APPLICATION_CREDENTIALS: open "},
		"a large file":     {gcpWith(file(strings.Repeat("x", maxSecret+1))), nil, "is larger than 65536 bytes"},
		"no JSON":          {gcpWith(file("-----BEGIN")), nil, "GOOGLE_APPLICATION_CREDENTIALS: it is not JSON"},
		"of a user":        {gcpWith(gcpKeyIn(t, t.TempDir(), "authorized_user", exampleKey(t))), nil, "it is not the key of a service account"},
		"no key in it":     {gcpWith(gcpKeyIn(t, t.TempDir(), "service_account", "MIIC")), nil, "its private_key is not PEM"},
		"half a key":       {gcpWith(gcpKeyIn(t, t.TempDir(), "service_account", strings.Replace(exampleKey(t), "MIICXgIBAAKBgQDCFENGw33yGihy92pDjZQhl0C36rPJj+CvfSC8+q28hxA161QF\n", "", 1))), nil, "its private_key is not of RSA"},
		"a path as name":   {named(gcpProject, "../x"), nil, "GCP_PROJECT_ID is not the id of a project"},
		"login refuses":    {gcpWith(good), say(login, http.StatusUnauthorized, `{"error": "invalid_grant"}`), `credentials rejected: {"error": "invalid_grant"}`},
		"no token":         {gcpWith(good), say(login, http.StatusOK, `{"access_token": "a\r\nb"}`), "there is no token"},
		"no right":         {gcpWith(good), say(compute, http.StatusForbidden, "Bearer "+gcpSecret+" may not"), "credentials rejected: Bearer *** may not"},
		"it is down":       {gcpWith(good), say(compute, http.StatusServiceUnavailable, "down"), "status 503: down"},
		"it hangs":         {gcpWith(good), map[string]http.HandlerFunc{compute: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}, "no answer in 30s"},
		"not JSON":         {gcpWith(good), say(compute, http.StatusOK, `<html>`), "the answer is not what the provider documents"},
		"a list":           {gcpWith(good), say(compute, http.StatusOK, `{"items": []}`), "the answer is not what the provider documents"},
		"many things":      {gcpWith(good), say(compute, http.StatusOK, `{"items": [`+strings.Repeat("{},", maxItems+1)+"{}]}"), "it lists more than 300000 things"},
		"many zones":       {gcpWith(good), say(compute, http.StatusOK, `{"items": {`+zones(maxGCPZones+1)+"}}"), "there are more than 300 zones"},
		"many types":       {gcpWith(good), say(compute, http.StatusOK, `{"items": {"zones/us-central1-a": {"machineTypes": [`+types(maxGCPKinds+1)+"]}}}"), "there are more than 5000 types"},
		"pages do not end": {gcpWith(good), say(compute, http.StatusOK, `{"items": {}, "nextPageToken": "more"}`), "there are more than 1000 pages"},
		"slow pages": {gcpWith(good), map[string]http.HandlerFunc{compute: func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(20 * time.Second)
			_, _ = io.WriteString(w, `{"nextPageToken": "more"}`)
		}}, "it took longer than 5m0s"},
		"elsewhere": {gcpWith(good), map[string]http.HandlerFunc{compute: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
		}}, "elsewhere.example, which gets no credentials: set DSTACK_ENDPOINT_GCP"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gcpDouble{answers: gcpAnswers(), instead: tt.instead}
			got, err := g.collect(t, tt.env)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(zoned(without), zoned(got)); diff != "" {
				t.Errorf("the list differs (-without +with):\n%s", diff)
			}
			said := fmt.Sprint(got.NoAccount)
			if got.NoAccount == nil || !strings.Contains(said, tt.want) || strings.Contains(said, "MIIC") || strings.Contains(said, gcpSecret) {
				t.Errorf("the account told nothing for %v, want %q", got.NoAccount, tt.want)
			}
		})
	}
}

// Types that make no sense are left out, and of those that do some cannot be said in a list.
func TestGCPRows(t *testing.T) {
	for text, want := range map[string]string{
		machine("a2-highgpu-1g", 12, 87040, gpuOf("nvidia-tesla-a100", 1)):                                                  "12 85GB x A100:40GB:1",
		machine("a3-megagpu-8g", 208, 1916928, gpuOf("nvidia-h100-mega-80gb", 8)):                                           "208 1872GB x H100:80GB:8",
		machine("g4-standard-48", 48, 184320, gpuOf("nvidia-rtx-pro-6000", 1)):                                              "48 180GB x RTXPRO6000:96GB:1",
		machine("g4-standard-12", 12, 46080, gpuOf("nvidia-rtx-pro-6000", 1)):                                               "",
		machine("a2-ultragpu-1g", 12, 174080, gpuOf("nvidia-a100-80gb", 1)+`, "bundledLocalSsds": {"partitionCount": 1}`):   "12 170GB x A100:80GB:1",
		machine("a3-edgegpu-8g", 208, 1916928, gpuOf("nvidia-h100-80gb", 8)+`, "bundledLocalSsds": {"partitionCount": 16}`): "",
		machine("z9-lssd", 2, 2048, ""):                                                                                                                       "",
		strings.Replace(machine("n4a-standard-2", 2, 8192, ""), "X86_64", "ARM64", 1):                                                                         "2 8GB xarm",
		machine("a3-ultragpu-8g", 224, 3022848, gpuOf("nvidia-h200-141gb", 8)+`, "bundledLocalSsds": {"partitionCount": 32}`):                                 "224 2952GB x H200:141GB:8",
		strings.Replace(machine("a4x-highgpu-4g", 140, 905216, gpuOf("nvidia-gb200", 4)+`, "bundledLocalSsds": {"partitionCount": 4}`), "X86_64", "ARM64", 1): "140 884GB xarm GB200:186GB:4",
		machine("h4d-highmem-192-lssd", 192, 1523712, `, "bundledLocalSsds": {"partitionCount": 10}`):                                                         "192 1488GB x",
		machine("n2-standard-2", 0, 8192, ""):                                                                                                                 "",
		machine("n2-standard-2", 2, -1, ""):                                                                                                                   "",
		strings.Replace(machine("n2-standard-2", 2, 8192, ""), `"guestCpus": 2`, `"guestCpus": 1e99`, 1):                                                      "",
		machine("a2-highgpu-1g", 12, 87040, gpuOf("nvidia-tesla-a100", 0)):                                                                                    "",
		machine("a2-highgpu-1g", 12, 87040, `, "accelerators": [{"guestAcceleratorType": "nvidia-l4", "guestAcceleratorCount": 1}, {}]`):                      "",
	} {
		var m gcpMachine
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		got := ""
		if r, ok := new(tray).gcpRow(m); ok {
			got = fmt.Sprintf("%d %s x%s", r.CPUs, gib(r.MemoryMiB), r.Arch)
			if r.GPUs > 0 {
				got += fmt.Sprintf(" %s:%s:%d", r.GPU.Name, gib(r.GPU.MemoryMiB), r.GPUs)
			}
		}
		if got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}
