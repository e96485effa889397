package offer

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// prices are small catalogs.
var prices = map[string]string{
	"aws.csv": "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,gpu_vendor\n" +
		"p5.48xlarge,us-east-1,55.04,192,2048,8,H100,80,False,,nvidia\n" +
		"p5.48xlarge,us-east-1,21.5,192,2048,8,H100,80,True,,nvidia\n" +
		"p4d.24xlarge,us-east-1,21.96,96,1152,8,A100,40,False,,nvidia\n" +
		"m5.large,eu-west-1,0.107,2,8,0,,,False,,\n",
	"lambdalabs.csv": "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,gpu_vendor\n" +
		"gpu_1x_h100,us-west-1,3.29,26,200,1,H100,80,False,1000,nvidia\n",
	"verda.csv": "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot\n" +
		"1X1,FIN-01,1,8,32,1,X1,80,False\nCPU.4V.16G,FIN-01,0.0279,4,16,0,,,False\n",
}

// offerCommand runs `dstack offer` in a directory with the catalogs and no server.
func offerCommand(t *testing.T, env map[string]string, args ...string) (out, said string, err error) {
	t.Helper()
	dir := t.TempDir()
	day := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for name, text := range prices {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, day, day); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, ".dstack"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".dstack", "profiles.yml"), []byte("profiles:\n- name: p\n  backends: [lambda]\n  spot_policy: auto\n"+
		"- name: f\n  fleets: [x]\n  instances: [x-0]\n  reservation: r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	streams := term.New(strings.NewReader(""), &stdout, &stderr)
	streams.Getenv = func(name string) string { return env[name] }
	cmd := New(&program.Program{IO: streams, Home: t.TempDir(), Getwd: func() (string, error) { return dir, nil }})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

// trimmed is text without the blanks that pad tables.
func trimmed(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func TestCatalog(t *testing.T) {
	wide := map[string]string{"COLUMNS": "120"}
	const note = "What providers charge where they have it, not what they have now. `dstack offer` asks your backends.\n"
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"what fits, cheapest first": {[]string{"aws.csv", "lambdalabs.csv", "--gpu", "H100"}, `
 Catalog      aws.csv, lambdalabs.csv, 5 list prices of 2026-08-01
 Resources    cpu=1.. mem=0GB.. gpu=H100:1..
 Spot policy  on-demand
 Max price    off

 #  BACKEND             RESOURCES                                         INSTANCE TYPE  LIST PRICE  AS OF
 1  lambda (us-west-1)  cpu=x86:26 mem=200GB disk=1000GB gpu=H100:80GB:1  gpu_1x_h100    $3.29       2026-08-01
 2  aws (us-east-1)     cpu=x86:192 mem=2048GB gpu=H100:80GB:8            p5.48xlarge    $55.04      2026-08-01

` + note + `
Without ` + "`" + `spot_policy` + "`" + ` 1 more would fit, from $21.5: try ` + "`--spot-auto`" + `.

 REQUIREMENT  EXCLUDES  WITHOUT IT
 spot_policy  1         1 more from $21.5
 gpu.name     1         1 more from $21.96
 gpu          1         -
`},
		"few kinds fit": {[]string{"aws.csv", "lambdalabs.csv", "--gpu", "H100", "--max-price", "5", "--group-by", "gpu"}, `
 Catalog      aws.csv, lambdalabs.csv, 5 list prices of 2026-08-01
 Resources    cpu=1.. mem=0GB.. gpu=H100:1..
 Spot policy  on-demand
 Max price    $5
 Reservation  -
 Group by     gpu

 #  GPU          SPOT       $/GPU  BACKENDS  AS OF
 1  H100:80GB:1  on-demand  3.29   lambda    2026-08-01

` + note + `
Without ` + "`" + `max_price` + "`" + ` 1 more would fit, from $55.04: try ` + "`--max-price 55.04`" + `.

 REQUIREMENT  EXCLUDES  WITHOUT IT
 max_price    3         1 more from $55.04
 spot_policy  1         -
 gpu          1         -
 gpu.name     1         -
`},
		"enough fits": {[]string{"aws.csv", "--spot-auto", "--max-offers", "1"}, `
 Catalog      aws.csv, 4 list prices of 2026-08-01
 Resources    cpu=1.. mem=0GB.. gpu=0..
 Spot policy  auto
 Max price    off

 #  BACKEND          RESOURCES          INSTANCE TYPE  LIST PRICE  AS OF
 1  aws (eu-west-1)  cpu=x86:2 mem=8GB  m5.large       $0.107      2026-08-01
 Shown 1 of 4 list prices

` + note},
		"nothing fits": {[]string{"aws.csv", "--gpu", "H100:8", "--max-price", "20", "--spot-auto"}, `
 Catalog      aws.csv, 4 list prices of 2026-08-01
 Resources    cpu=1.. mem=0GB.. gpu=H100:8
 Spot policy  auto
 Max price    $20

None of 4 list prices fits.
Without ` + "`" + `max_price` + "`" + ` 2 more would fit, from $21.5: try ` + "`--max-price 21.5`" + `.

 REQUIREMENT  EXCLUDES  WITHOUT IT
 max_price    3         2 more from $21.5
 gpu          1         -
 gpu.name     1         -
`},
		"two things are in the way": {[]string{"aws.csv", "--gpu", "A100:8", "--max-price", "20", "-r", "eu-west-1"}, `
 Catalog      aws.csv, 4 list prices of 2026-08-01
 Resources    cpu=1.. mem=0GB.. gpu=A100:8
 Spot policy  on-demand
 Max price    $20

None of 4 list prices fits.
Leaving out one requirement alone lets no more offers fit:

 REQUIREMENT  EXCLUDES  WITHOUT IT
 regions      3         -
 max_price    3         -
 gpu.name     2         -
 spot_policy  1         -
 gpu          1         -
`},
		"by kind of GPU": {[]string{"aws.csv", "lambdalabs.csv", "--group-by", "gpu,backend", "--spot-auto"}, `
 Catalog      aws.csv, lambdalabs.csv, 5 list prices of 2026-08-01
 Resources    cpu=1.. mem=0GB.. gpu=0..
 Spot policy  auto
 Max price    off
 Reservation  -
 Group by     gpu, backend

 #  GPU          SPOT             $/GPU         BACKEND  REGIONS    AS OF
 1  H100:80GB:8  spot, on-demand  2.6875..6.88  aws      us-east-1  2026-08-01
 2  A100:40GB:8  on-demand        2.745         aws      us-east-1  2026-08-01
 3  H100:80GB:1  on-demand        3.29          lambda   us-west-1  2026-08-01

` + note},
		"no kind fits, though machines without GPUs do": {[]string{"aws.csv", "lambdalabs.csv", "--max-price", "0.5", "--group-by", "gpu"}, `
 Catalog      aws.csv, lambdalabs.csv, 5 list prices of 2026-08-01
 Resources    cpu=1.. mem=0GB.. gpu=0..
 Spot policy  on-demand
 Max price    $0.5
 Reservation  -
 Group by     gpu

None of 5 list prices fits.
Without ` + "`" + `max_price` + "`" + ` 3 more would fit, from $3.29: try ` + "`--max-price 3.29`" + `.

 REQUIREMENT  EXCLUDES  WITHOUT IT
 max_price    4         3 more from $3.29
 spot_policy  1         -
 gpu          1         -
`},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := offerCommand(t, wide, append([]string{"--catalog"}, tt.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), trimmed(got)); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCatalogJSON(t *testing.T) {
	out, _, err := offerCommand(t, map[string]string{"GPUHUNT_CATALOG_DIR": "."}, "--catalog", "--json", "--gpu", "H100:8", "--spot-auto", "--max-price", "30", "-b", "aws")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Catalog source
		Offers  []struct {
			Price float64
			AsOf  string `json:"as_of"`
		}
		TotalOffers int `json:"total_offers"`
		Excluded    []struct {
			Requirement     string
			Excludes, Alone int
			From            float64
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(source{Source: ".", Rows: 6, Oldest: "2026-08-01", Newest: "2026-08-01"}, got.Catalog); diff != "" {
		t.Errorf("catalog (-want +got):\n%s", diff)
	}
	if len(got.Offers) != 1 || got.TotalOffers != 1 || got.Offers[0].Price != 21.5 || got.Offers[0].AsOf != "2026-08-01" {
		t.Errorf("offers %+v of %d", got.Offers, got.TotalOffers)
	}
	if len(got.Excluded) == 0 || got.Excluded[0].Alone != 1 {
		t.Errorf("excluded %+v", got.Excluded)
	}
}

func TestCatalogErrors(t *testing.T) {
	for want, tt := range map[string]struct {
		env  map[string]string
		args []string
	}{
		"read a catalog: stat ":                                    {nil, []string{"--catalog", "none.csv"}},
		"<provider>.csv, in that direct":                           {map[string]string{"GPUHUNT_CATALOG_DIR": "nowhere"}, []string{"--catalog"}},
		"if any flags in the group [cat":                           {nil, []string{"--catalog", "--fleet", "f"}},
		"without also grouping by 'back":                           {nil, []string{"--catalog", "--group-by", "gpu,region"}},
		"unknown command \"aws.csv\" for":                          {nil, []string{"aws.csv"}},
		"are both catalogs of aws":                                 {nil, []string{"--catalog", "aws.csv", "aws.csv"}},
		"--max-offers: Input should be gr":                         {nil, []string{"--catalog", "--max-offers", "0"}},
		"--max-offers: Input should be le":                         {nil, []string{"--max-offers", "10001"}},
		"--max-offers: Input should be greater than or equal to 1": {nil, []string{"--max-offers", "0"}},
		"argument --backend: there are no list prices of \"acme\": use one of amddevcloud, aws, ": {nil, []string{"--catalog", "-b", "acme"}},
	} {
		if _, _, err := offerCommand(t, tt.env, tt.args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", tt.args, err, want)
		}
	}
}

func TestCatalogNamesWhatItLeavesOut(t *testing.T) {
	out, said, err := offerCommand(t, nil, "--catalog", "verda.csv")
	if err != nil || !strings.Contains(out, " verda.csv, 1 list prices ") || said != "Left out, since these accelerators are not known: X1\n" {
		t.Errorf("error %v, output\n%s%s", err, said, out)
	}
}

// In a directory, what is no catalog hides no other.
func TestCatalogDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"lambda.csv": prices["lambdalabs.csv"], "lambdalabs.csv": prices["lambdalabs.csv"], "notes.csv": "a,b\n",
		"verda.csv": strings.Replace(prices["verda.csv"], "0.0279", "-1", 1), "aws.csv": prices["aws.csv"],
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"GPUHUNT_CATALOG_DIR": dir}
	out, said, err := offerCommand(t, env, "--catalog")
	if err != nil || !strings.Contains(out, ", 5 list prices of ") {
		t.Errorf("error %v, output\n%s", err, out)
	}
	for _, want := range []string{"verda.csv: row 2: price: -1 is not", `"notes.csv": the file of a catalog is named`, "lambdalabs.csv are both catalogs of lambda"} {
		if !strings.Contains(strings.Join(strings.Fields(said), " "), want) {
			t.Errorf("it lacks %q:\n%s", want, said)
		}
	}
	for _, name := range []string{"aws.csv", "lambda.csv", "lambdalabs.csv"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := offerCommand(t, env, "--catalog"); err == nil || err.Error() != "none of the catalogs can be read" {
		t.Errorf("error %v without a good one", err)
	}
}

// Providers are found by any name that they have or had; one without prices has a reason.
func TestCatalogProviders(t *testing.T) {
	for name, tt := range map[string]struct {
		env       map[string]string
		args      []string
		out, said string
	}{
		"in another case":    {args: []string{"-b", "AWS", "--max-offers", "1"}, out: "aws (us-east-1)"},
		"by its name before": {args: []string{"-b", "datacrunch", "-b", "verda", "--max-offers", "1"}, out: "verda (FIN-01)", said: "datacrunch is called verda now.\n"},
		"told to accounts":   {args: []string{"-b", "crusoe"}, out: "There are no list prices of crusoe: its prices or its machines are told to accounts only: set CRUSOE_ACCESS_KEY"},
		"to be asked":        {args: []string{"-b", "vastai", "-b", "lambda"}, out: "run `dstack catalog refresh --provider vastai`."},
		"of a project": {args: []string{"--profile", "f"}, out: "aws (us-east-1)", said: "List prices know nothing of the profile's `fleets` and `instances`: `dstack offer` asks the server.\n" +
			"List prices do not know what is in the profile's `reservation`: they are of the providers that have any.\n"},
		"dates of groups":          {args: []string{"aws.csv", "--gpu", "H100", "--group-by", "gpu", "--json"}, out: `"oldest":"2026-08-01","newest":"2026-08-01"}]`},
		"in groups":                {args: []string{"-b", "hotaisle", "--group-by", "gpu"}, out: "There are no list prices of hotaisle: "},
		"no price where none fits": {args: []string{"aws.csv", "--gpu", "A100:8", "--max-price", "20", "-r", "eu-west-1", "--json"}, out: `{"requirement":"regions","excludes":3,"alone":0,"from":null}`},
		"few in groups, as JSON":   {args: []string{"-b", "lambda", "--gpu", "H100:8", "--max-price", "1", "--group-by", "gpu", "--json"}, out: `"gpus":[],"excluded":[{"requirement":`},
		"not in that file":         {args: []string{"aws.csv", "-b", "gcp"}, out: "There are no list prices of gcp: none of the catalogs is of this provider."},
		"not in that directory":    {env: map[string]string{"GPUHUNT_CATALOG_DIR": "."}, args: []string{"-b", "gcp"}, out: "There are no list prices of gcp: none of the catalogs is of this provider.", said: "Left out, since these accelerators are not known: X1\n"},
		"as JSON":                  {args: []string{"-b", "crusoe", "--json"}, out: `"missing":[{"provider":"crusoe","reason":"its prices`},
		"as JSON, with prices":     {args: []string{"-b", "lambda", "--json"}, out: `"total_offers":`},
		"backends of the profile":  {args: []string{"--profile", "p"}, out: "lambda (us-west-1)"},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{"COLUMNS": "300"}
			maps.Copy(env, tt.env)
			out, said, err := offerCommand(t, env, append([]string{"--catalog"}, tt.args...)...)
			if err != nil || !strings.Contains(out, tt.out) || said != tt.said {
				t.Errorf("error %v, output lacks %q:\n%s%s", err, tt.out, said, out)
			}
		})
	}
}

// Without files it searches what comes with the program.
func TestCatalogEmbedded(t *testing.T) {
	out, _, err := offerCommand(t, nil, "--catalog", "--gpu", "H100:8")
	if err != nil || !strings.Contains(out, "embedded, ") || !strings.Contains(out, "nebius (eu-north1)") {
		t.Errorf("error %v, output\n%s", err, out)
	}
}
