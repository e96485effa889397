package collect

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"dstack/internal/backend"
	"dstack/internal/nebiusclient/nebiustest"
	billingpb "dstack/internal/nebiusclient/pb/nebius/billing/v1alpha1"
	computepb "dstack/internal/nebiusclient/pb/nebius/compute/v1"
	iamv2pb "dstack/internal/nebiusclient/pb/nebius/iam/v2"
)

// atNebius is what the double has: answers in the shapes of the API.
func atNebius(t testing.TB) nebiustest.Account {
	t.Helper()
	data, err := os.ReadFile("testdata/nebius.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Tenants, Projects, Platforms []json.RawMessage
		Regions                      map[string][]string
		Prices                       map[string][]string
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	a := nebiustest.Account{
		Tenants: messages[iamv2pb.Tenant](t, file.Tenants), Projects: messages[iamv2pb.Project](t, file.Projects), Platforms: map[string][]*computepb.Platform{},
	}
	platforms := messages[computepb.Platform](t, file.Platforms)
	for project, names := range file.Regions {
		for _, name := range names {
			i := slices.IndexFunc(platforms, func(p *computepb.Platform) bool { return p.Metadata.Name == name })
			a.Platforms[project] = append(a.Platforms[project], platforms[i])
		}
	}
	a.Price = func(_, platform, preset string, spot bool) *billingpb.ResourceGroupCost {
		prices := file.Prices[platform+" "+preset]
		n := 0
		if spot {
			n = 1
		}
		if n >= len(prices) {
			return nil
		}
		return costing(prices[n])
	}
	return a
}

// costing is what the calculator says of a price.
func costing(usd string) *billingpb.ResourceGroupCost {
	return &billingpb.ResourceGroupCost{CostType: &billingpb.ResourceGroupCost_General{
		General: &billingpb.GeneralTotalCost{Total: &billingpb.CostBreakdown{Cost: usd, CostRounded: usd}},
	}}
}

func messages[T any, P interface {
	*T
	proto.Message
}](t testing.TB, texts []json.RawMessage) []*T {
	t.Helper()
	var list []*T
	for _, text := range texts {
		m := P(new(T))
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, m); err != nil { // the double has what is used
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// nebiusEnv are the variables of a service account, with its key in a file.
func nebiusEnv(t testing.TB, s *nebiustest.Server, more map[string]string) func(string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key.pem")
	key := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(s.Credentials().Key)})
	if err := os.WriteFile(file, key, 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"NEBIUS_SERVICE_ACCOUNT_ID": nebiustest.ServiceAccount, "NEBIUS_PUBLIC_KEY_ID": nebiustest.PublicKey, "NEBIUS_PRIVATE_KEY_FILE": file,
		"DSTACK_ENDPOINT_NEBIUS": nebiustest.Endpoint,
	}
	for name, value := range more {
		env[name] = value
	}
	return func(name string) string { return env[name] }
}

// collectFrom collects from a server in memory, in virtual time; more are variables besides.
func collectFrom(t *testing.T, s *nebiustest.Server, source Source, more map[string]string) (got Collection, took time.Duration, err error) {
	t.Helper()
	k := known(t)
	synctest.Test(t, func(t *testing.T) {
		nebiustest.New(t, s)
		c := settings(nil, k)
		c.Env, c.Dial, c.Received = nebiusEnv(t, s, more), s.Dial, new(atomic.Int64)
		began := time.Now()
		got, err = Collect(t.Context(), c, source, today)
		took = time.Since(began)
		if err == nil && c.Received.Load() < 1000 {
			t.Errorf("%d bytes were received", c.Received.Load())
		}
	})
	return got, took, err
}

// The list is whole, so that it has all that it must have.
func TestNebius(t *testing.T) {
	s := &nebiustest.Server{Account: atNebius(t), PageSize: 2}
	got, _, err := collectFrom(t, s, source(t, "nebius"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"cpu-d3 128vcpu-512gb eu-north1 128 512GB $3.1744",
		"cpu-d3 128vcpu-512gb eu-west1 128 512GB $3.1744",
		"cpu-d3 4vcpu-16gb eu-north1 4 16GB $0.0992",
		"cpu-d3 4vcpu-16gb eu-west1 4 16GB $0.0992",
		"gpu-a100-pcie 1gpu-14vcpu-110gb eu-west1 14 110GB A100:40GB:1 $1.6",
		"gpu-a100-sxm 1gpu-14vcpu-110gb eu-west1 14 110GB A100:80GB:1 $2.1",
		"gpu-b200-sxm 8gpu-160vcpu-1792gb us-central1 160 1792GB B200:180GB:8 $44",
		"gpu-gb200-sxm 4gpu-144vcpu-960gb us-central1 144 960GB GB200:186GB:4 arm $26",
		"gpu-h100-sxm 1gpu-16vcpu-200gb eu-north1 16 200GB H100:80GB:1 $2.95",
		"gpu-h100-sxm 1gpu-16vcpu-200gb eu-north1 16 200GB H100:80GB:1 spot $1.25",
		"gpu-h100-sxm 8gpu-128vcpu-1600gb eu-north1 128 1600GB H100:80GB:8 $23.6",
		"gpu-h100-sxm 8gpu-128vcpu-1600gb eu-north1 128 1600GB H100:80GB:8 spot $10",
		"gpu-h200-sxm 1gpu-16vcpu-200gb eu-north1 16 200GB H200:141GB:1 $3.5",
		"gpu-h200-sxm 1gpu-16vcpu-200gb eu-north1 16 200GB H200:141GB:1 spot $1.45",
		"gpu-h200-sxm 1gpu-16vcpu-200gb eu-west1 16 200GB H200:141GB:1 $3.5",
		"gpu-h200-sxm 1gpu-16vcpu-200gb eu-west1 16 200GB H200:141GB:1 spot $1.45",
		"gpu-h200-sxm 8gpu-128vcpu-1600gb eu-north1 128 1600GB H200:141GB:8 $28",
		"gpu-h200-sxm 8gpu-128vcpu-1600gb eu-north1 128 1600GB H200:141GB:8 spot $11.6",
		"gpu-h200-sxm 8gpu-128vcpu-1600gb eu-west1 128 1600GB H200:141GB:8 $28",
		"gpu-h200-sxm 8gpu-128vcpu-1600gb eu-west1 128 1600GB H200:141GB:8 spot $11.6",
		"gpu-l40s-a 1gpu-40vcpu-160gb eu-north1 40 160GB L40S:48GB:1 $2.342",
		"gpu-l40s-a 1gpu-40vcpu-160gb eu-north1 40 160GB L40S:48GB:1 spot $2.342",
		"gpu-l40s-a 1gpu-8vcpu-32gb eu-north1 8 32GB L40S:48GB:1 $1.5484",
		"gpu-l40s-a 1gpu-8vcpu-32gb eu-north1 8 32GB L40S:48GB:1 spot $1.5484",
		"gpu-rtx6000 1gpu-24vcpu-218gb us-central1 24 218GB RTXPRO6000:96GB:1 $1.8",
		"gpu-rtx6000 1gpu-24vcpu-218gb us-central1 24 218GB RTXPRO6000:96GB:1 spot $0.92",
		"gpu-x9-pcie 0gpu-2vcpu-8gb eu-north1 2 8GB $0.0496",
	}
	if diff := cmp.Diff(want, listed(got.List)); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"l4 with 48 GB", "x9"}, got.LeftOut.Names); diff != "" || got.Free != 1 { // cpu-e2
		t.Errorf("%d rows without a price, left out (-want +got):\n%s", got.Free, diff)
	}
	if n := s.Calls("Exchange"); n != 1 {
		t.Errorf("%d access tokens were asked for", n)
	}
}

// Any of the credentials do.
func TestNebiusCredentials(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const secret = "MIIEowIBAAKCAQEAsecret"
	for name, tt := range map[string]struct {
		env  map[string]string
		want string // of the error
	}{
		"a service account":     {nil, ""},
		"no key":                {map[string]string{"NEBIUS_PRIVATE_KEY_FILE": filepath.Join(dir, "none")}, "NEBIUS_PRIVATE_KEY_FILE: open " + dir + "/none: no such file or directory"},
		"another file":          {map[string]string{"NEBIUS_PRIVATE_KEY_FILE": write("pem", "-----BEGIN RSA PRIVATE KEY-----\n"+secret+"\n-----END RSA PRIVATE KEY-----\n")}, "it is not a private key in P"},
		"a large file":          {map[string]string{"NEBIUS_PRIVATE_KEY_FILE": write("large", strings.Repeat(secret, 1e4))}, "is larger than 65536 bytes"},
		"a file":                {map[string]string{"NEBIUS_CREDENTIALS_FILE": write("bad.json", `{"subject-credentials": {"private-key": "`+secret+`", "alg": "HS256"}}`)}, `subject-credentials.alg: "HS256" is not RS256`},
		"no file":               {map[string]string{"NEBIUS_CREDENTIALS_FILE": filepath.Join(dir, "none")}, "NEBIUS_CREDENTIALS_FILE: open "},
		"another account":       {map[string]string{"NEBIUS_SERVICE_ACCOUNT_ID": "serviceaccount-other"}, "credentials rejected: tenants: get an access token: "},
		"another key's id":      {map[string]string{"NEBIUS_PUBLIC_KEY_ID": "publickey-other"}, "credentials rejected: tenants: get an access token: "},
		"a token that is none":  {map[string]string{"NEBIUS_IAM_TOKEN": secret + "\n"}, "the access token has characters that none has"},
		"a token of yesterday":  {map[string]string{"NEBIUS_IAM_TOKEN": secret}, "credentials rejected: tenants: cpl.iam List: the token is not valid: Bearer *** (Unauthenticated)"},
		"an endpoint in a path": {map[string]string{"DSTACK_ENDPOINT_NEBIUS": "http://nebius.test/grpc"}, "without a path"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &nebiustest.Server{Account: atNebius(t)}
			_, _, err := collectFrom(t, s, source(t, "nebius"), tt.env)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if strings.Contains(fmt.Sprint(err), secret) {
				t.Errorf("%v has a secret", err)
			}
			if refused := strings.HasPrefix(tt.want, "credentials rejected"); errors.Is(err, backend.ErrAuth) != refused {
				t.Errorf("%v is of credentials: %v, want %v", err, !refused, refused)
			}
		})
	}
}

// A token that somebody else renews does, over a connection that is a real one.
func TestNebiusToken(t *testing.T) {
	s := &nebiustest.Server{Account: atNebius(t)}
	address := nebiustest.Listen(t, s)
	env := map[string]string{"NEBIUS_IAM_TOKEN": s.Issue(), "DSTACK_ENDPOINT_NEBIUS": "http://" + address}
	c := settings(nil, known(t))
	c.Env = func(name string) string { return env[name] }
	got, err := Collect(t.Context(), c, source(t, "nebius"), today)
	if err != nil || got.List.Len() != 27 || s.Calls("Exchange") != 0 {
		t.Errorf("%v, %d rows, %d tokens asked for", err, got.List.Len(), s.Calls("Exchange"))
	}
}

// platform is one of the type of H100 with a preset, with what a test changes.
func platform(change func(p *computepb.Platform, preset *computepb.Preset)) *computepb.Platform {
	p := &computepb.Platform{}
	if err := protojson.Unmarshal([]byte(`{"metadata": {"name": "gpu-h100-sxm"}, "spec": {"gpuMemoryGigabytes": 80, "presets": [
		{"name": "8gpu-128vcpu-1600gb", "resources": {"vcpuCount": 128, "memoryGibibytes": 1600, "gpuCount": 8}, "allowGpuClustering": true}]}, "status": {}}`), p); err != nil {
		panic(err) // it is a text
	}
	change(p, p.Spec.Presets[0])
	return p
}

// What is not in order is refused.
func TestNebiusHostile(t *testing.T) {
	price := func(usd string) func(*nebiustest.Server) {
		return func(s *nebiustest.Server) {
			s.Price = func(_, platform, preset string, _ bool) *billingpb.ResourceGroupCost {
				if platform == "gpu-h100-sxm" {
					return costing(usd)
				}
				return costing("1")
			}
		}
	}
	at := func(change func(*computepb.Platform, *computepb.Preset)) func(*nebiustest.Server) {
		return func(s *nebiustest.Server) { s.Platforms["project-e00b"] = []*computepb.Platform{platform(change)} }
	}
	for name, tt := range map[string]struct {
		change func(*nebiustest.Server)
		want   string
	}{
		"no number":              {price("NaN"), ` in eu-north1: the answer is not what the provider documents: "NaN" is not a price`},
		"an empty price":         {price(""), `"" is not a price`},
		"an infinite price":      {price("Infinity"), `"Infinity" is not a price`},
		"a price in hexadecimal": {price("0x1p3"), `"0x1p3" is not a price`},
		"a price and an escape":  {price("1\x1b[2J"), `"1 [2J" is not a price`},
		"a negative price":       {price("-2.95"), "price: -2.95 is not 0.0001 to 100000"},
		"a high price":           {price("1000000"), "price: 1e+06 is not 0.0001 to 100000"},
		"no price at all": {func(s *nebiustest.Server) {
			s.Price = func(string, string, string, bool) *billingpb.ResourceGroupCost { return nil }
		}, "there are 0 rows, fewer than 1"},
		"all are free":        {price("0"), "there is no H100"},
		"no spot":             {func(s *nebiustest.Server) { unspot(s) }, "there are no prices of spot instances"},
		"no tenant":           {func(s *nebiustest.Server) { s.Tenants = nil }, "the credentials see 0 tenants, not 1"},
		"two tenants":         {func(s *nebiustest.Server) { s.Tenants = append(s.Tenants, s.Tenants[0]) }, "the credentials see 2 tenants, not 1"},
		"no projects":         {func(s *nebiustest.Server) { s.Projects = nil }, "the tenant has no project in eu-north1"},
		"nothing in a region": {func(s *nebiustest.Server) { s.Platforms["project-e01d"] = nil }, "there is nothing in eu-west1"},
		"a region less":       {func(s *nebiustest.Server) { s.Projects[3].Spec.Region = "eu-west2" }, "the tenant has no project in eu-west1, so that there are no prices of it"},
		"a hostile region":    {func(s *nebiustest.Server) { s.Projects[4].Spec.Region = "eu-\x1b[2J" }, `location: "eu-\x1b[2J" is not a name`},
		"no clusters":         {at(func(_ *computepb.Platform, p *computepb.Preset) { p.AllowGpuClustering = false }), "8gpu-128vcpu-1600gb in eu-north1 has no fabrics"},
		"clusters of one":     {at(func(_ *computepb.Platform, p *computepb.Preset) { p.Name = "1gpu-16vcpu-200gb" }), "1gpu-16vcpu-200gb in eu-north1 has fabrics"},
		"negative memory":     {at(func(_ *computepb.Platform, p *computepb.Preset) { p.Resources.MemoryGibibytes = -1 }), "memory: -1024 MiB is not 1 to"},
		"no CPUs":             {at(func(_ *computepb.Platform, p *computepb.Preset) { p.Resources.VcpuCount = 0 }), "cpu: 0 is not 1 to"},
		"many GPUs":           {at(func(_ *computepb.Platform, p *computepb.Preset) { p.Resources.GpuCount = 1 << 30 }), "gpu_count: 1073741824 is not 0 to 128"},
		"fewer than no GPUs":  {at(func(_ *computepb.Platform, p *computepb.Preset) { p.Resources.GpuCount = -1 }), "gpu_count: -1 is not 0 to 128"},
		"twice the same":      {at(func(p *computepb.Platform, preset *computepb.Preset) { p.Spec.Presets = append(p.Spec.Presets, preset) }), `8gpu-128vcpu-1600gb in "eu-north1" is there twice`},
		"nothing in a preset": {at(func(p *computepb.Platform, _ *computepb.Preset) { p.Spec.Presets = []*computepb.Preset{nil, {}} }), "there is no L40S"},
		"a million platforms": {func(s *nebiustest.Server) { s.Platforms["project-e00b"] = make([]*computepb.Platform, 1_000_000) }, "it lists more than 10000 things"},
		"a million presets": {at(func(p *computepb.Platform, preset *computepb.Preset) {
			p.Spec.Presets = slices.Repeat([]*computepb.Preset{{Resources: &computepb.PresetResources{VcpuCount: 1}}}, 100_000)
		}), "it sells more than 10000 things"},
		"a huge answer": {at(func(p *computepb.Platform, _ *computepb.Preset) { p.Metadata.Name = strings.Repeat("a", 2<<20) }), "larger than max"},
		"large pages": {func(s *nebiustest.Server) {
			s.Platforms["project-e00b"] = slices.Repeat([]*computepb.Platform{platform(func(p *computepb.Platform, _ *computepb.Preset) { p.Metadata.Name = strings.Repeat("a", 1000<<10) })}, 20)
			s.PageSize = 1
		}, "it lists more than 16777216 bytes"},
		"pages without end": {func(s *nebiustest.Server) { s.Projects, s.PageSize = slices.Repeat(s.Projects[:1], 2000), 1 }, "there are more than 1000 pages"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &nebiustest.Server{Account: atNebius(t)}
			tt.change(s)
			_, _, err := collectFrom(t, s, source(t, "nebius"), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// A tenant need not be everywhere, and a project may be on its way out: the list has the other regions.
func TestNebiusInTwoRegions(t *testing.T) {
	s := &nebiustest.Server{Account: atNebius(t)}
	for _, p := range s.Projects {
		if !slices.Contains(nebiusRegions, p.Spec.Region) {
			delete(s.Platforms, p.Metadata.Id)
		}
	}
	got, _, err := collectFrom(t, s, source(t, "nebius"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got.List.Len() {
		if r := got.List.Row(i); !slices.Contains(nebiusRegions, r.Region) {
			t.Errorf("%s is in %s", r.Instance, r.Region)
		}
	}
	if got.LeftOut.Len() == 0 || !strings.HasPrefix(got.LeftOut.Names[0], "platforms in ") {
		t.Errorf("left out %+v", got.LeftOut)
	}
}

// unspot makes that nothing is sold as spot.
func unspot(s *nebiustest.Server) {
	for _, platforms := range s.Platforms {
		for _, p := range platforms {
			p.Status.AllowedForPreemptibles = false
		}
	}
}

func TestNebiusOutages(t *testing.T) {
	for name, tt := range map[string]struct {
		fault func(ctx context.Context, method string, n int) error
		least time.Duration
		want  string
	}{
		"it hangs": {func(ctx context.Context, method string, _ int) error {
			if method == "Estimate" {
				return nebiustest.Hang(ctx)
			}
			return nil
		}, 30 * time.Second, "Estimate: no answer in 10s (DeadlineExceeded)"},
		"no token comes": {func(ctx context.Context, method string, _ int) error {
			if method == "Exchange" {
				return nebiustest.Hang(ctx)
			}
			return nil
		}, 15 * time.Second, "get an access token: "},
		"it is down": {func(context.Context, string, int) error {
			return status.Error(codes.Unavailable, "down for\x1b[2J a while")
		}, time.Second, "down for [2J a while (Unavailable)"},
		"it is down for a moment": {func(_ context.Context, method string, n int) error {
			if n <= 2 {
				return status.Error(codes.Unavailable, "down")
			}
			return nil
		}, time.Second, ""},
		"it is asked too often": {func(_ context.Context, method string, n int) error {
			if method == "Estimate" && n%10 == 0 {
				return status.Error(codes.ResourceExhausted, "slower")
			}
			return nil
		}, time.Second / 2, ""},
		"it may not be asked": {func(_ context.Context, method string, _ int) error {
			if method == "Estimate" {
				return status.Error(codes.PermissionDenied, "no prices for you")
			}
			return nil
		}, 0, "credentials rejected: price of "},
		"the calculator does not understand": {func(_ context.Context, method string, _ int) error {
			if method == "Estimate" {
				return status.Error(codes.InvalidArgument, "what?")
			}
			return nil
		}, 0, "api.calculator.billing-data-plane Estimate: what? (InvalidArgument)"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &nebiustest.Server{Account: atNebius(t), Fault: tt.fault}
			_, took, err := collectFrom(t, s, source(t, "nebius"), nil)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if took < tt.least || took > 2*time.Minute {
				t.Errorf("took %v, want %v or a little more", took, tt.least)
			}
		})
	}
}

// What the calculator knows nothing of is counted.
func TestNebiusWithoutPrice(t *testing.T) {
	s := &nebiustest.Server{Account: atNebius(t), Fault: func(_ context.Context, method string, n int) error {
		if method == "Estimate" && n == 1 {
			return status.Error(codes.NotFound, "no such product")
		}
		return nil
	}}
	s.Platforms["project-e00b"] = s.Platforms["project-e00b"][2:] // all of the others have a price
	got, _, err := collectFrom(t, s, small(source(t, "nebius")), nil)
	if err != nil || got.Free != 1 || got.List.Len() != 24 {
		t.Errorf("%v, %d rows, %d without a price", err, got.List.Len(), got.Free)
	}
}

// Whatever is said of a platform and its price, there are rows in order or an error.
func FuzzNebius(f *testing.F) {
	for _, platforms := range atNebius(f).Platforms {
		for _, p := range platforms {
			data, err := proto.Marshal(p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, "2.95")
		}
	}
	f.Add([]byte(nil), "-1e400")
	f.Fuzz(func(t *testing.T, data []byte, usd string) {
		p := &computepb.Platform{}
		if proto.Unmarshal(data, p) != nil {
			return
		}
		price, err := nebiusPrice(costing(usd))
		if err != nil || nebiusClusters("eu-north1", p) != nil {
			return
		}
		tr := &tray{provider: "nebius", asOf: "2026-11-25"}
		for _, q := range tr.nebiusQuestions("eu-north1", "project-1", p) {
			q.row.Price = price
			if err := tr.add(q.row); err != nil {
				return
			}
		}
		if err := tr.list.List().Encode(io.Discard); err != nil {
			t.Error(err)
		}
	})
}
