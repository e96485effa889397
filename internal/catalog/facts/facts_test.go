package facts

import (
	"maps"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/catalog/pricelist"
)

func rows(l *pricelist.List) []pricelist.Row {
	list := make([]pricelist.Row, l.Len())
	for i := range list {
		list[i] = l.Row(i)
	}
	return list
}

func TestEmbeddedListIsMadeOfTheFacts(t *testing.T) {
	want, report, err := Build(os.DirFS("data"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := pricelist.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rows(want), rows(got)); diff != "" {
		t.Errorf("run make catalog (-facts +embedded):\n%.2000s", diff)
	}
	// Facts do not go missing unnoticed: what is left out is what is known to be.
	if want := map[string]int{"aws": 2418, "azure": 9501, "gcp": 15736, "amddevcloud": 1, "crusoe": 8, "seeweb": 9}; !cmp.Equal(want, report.NoShape) {
		t.Errorf("left out without shape: %v, want %v", report.NoShape, want)
	}
}

// small are files with one of each.
func small() fstest.MapFS {
	const prices = "backend,region,instance,usd_per_hour,spot,as_of\n"
	files := map[string]string{
		"shapes.csv": "# a comment\nbackend,instance,cpus,memory_gib,gpus,gpu,gpu_memory_gib,arch,disk_gib,sold\n" +
			"aws,m5.large,2,8,0,,,x86,,both\naws,p9,?,8,0,,,x86,,both\naws,dear,2,8,0,,,x86,,both\n" +
			"gcp,a3,26,234,1,H100,80,x86,,spot\ngcp,v5p-8,208,448,1,v5p-8,380,x86,,both\nlambda,gh,64,432.5,1,GH200,96,arm,10,both\n",
		"regions.csv":       "backend,region\nlambda,r1\nlambda,r2\n",
		"prices-aws.csv":    prices + "aws,us-east-1,m5.large,0.096,false,2026-07-20\naws,us-east-1,p9,1,false,2026\naws,us-east-1,x,1,false,2026\n",
		"prices-azure.csv":  prices,
		"prices-gcp.csv":    prices + "gcp,r,a3,9,false,2026\ngcp,r,a3,3,true,2026\n",
		"prices-others.csv": prices + "lambda,*,gh,2.29,false,2026\nlambda,r3,gh,?,false,2026\n",
		"prices-tpu.csv":    "version,region,usd_per_chip_hour,spot,as_of\nv5p,us-east5,4.20,false,2026\nv6e,us-east5,2.70,false,2026\n",
	}
	dir := fstest.MapFS{}
	for name, text := range files {
		dir[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return dir
}

func TestBuild(t *testing.T) {
	l, report, err := Build(small())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rows(l) {
		got = append(got, strings.Join([]string{r.Backend, r.Region, r.Instance, r.AsOf}, " "))
	}
	want := []string{"aws us-east-1 m5.large 2026-07-20", "lambda r1 gh 2026", "lambda r2 gh 2026", "gcp r a3 2026", "gcp us-east5 v5p-8 2026"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if r := l.Row(4); r.Price != 16.8 || r.GPU.MemoryMiB != 380<<10 || r.GPU.Vendor != "google" {
		t.Errorf("4 chips at $4.20: %+v", r)
	}
	if r := l.Row(1); r.Arch != "arm" || r.MemoryMiB != 475653 || r.DiskMiB != 10998 || r.GPU.MemoryMiB != 96<<10 { // 1.074 times what Lambda states, but for GPUs
		t.Errorf("the shape of gh: %+v", r)
	}
	counts := Report{
		Rows: map[string]int{"aws": 1, "gcp": 2, "lambda": 2}, NoShape: map[string]int{"aws": 2}, NoPrice: map[string]int{"lambda": 1},
		NotSold: map[string]int{"gcp": 1}, Unpriced: map[string]int{"aws": 1}, NoRegions: map[string]int{},
		Unshaped: map[string]map[string]bool{"aws": {"p9": true, "x": true}},
	}
	if diff := cmp.Diff(counts, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if text := report.String(); !strings.HasSuffix(text, "\naws: 2 types whose shape is not known: p9, x\n") {
		t.Errorf("it does not name what is left out:\n%s", text)
	}
}

func TestBuildRefuses(t *testing.T) {
	for want, change := range map[string][2]string{ // the file and a line at its end
		`shapes.csv:9: "many" is not a number of that kind`:                      {"shapes.csv", "aws,y,many,8,0,,,x86,,both"},
		"shapes.csv:9: m5.large of aws is there twice":                           {"shapes.csv", "aws,m5.large,2,8,0,,,x86,,both"},
		"shapes.csv:9: v6e-8 has 256 GiB, not 128":                               {"shapes.csv", "gcp,v6e-8,2,8,1,v6e-8,128,x86,,both"},
		"shapes.csv:9: A10 has [24] GiB, not 48":                                 {"shapes.csv", "gcp,y,2,8,1,A10,48,x86,,both"},
		"prices-aws.csv:5: record on line 5: wrong number of fields":             {"prices-aws.csv", "aws"},
		`prices-aws.csv:5: "free" is not a price`:                                {"prices-aws.csv", "aws,r,m5.large,free,false,2026"},
		`prices-aws.csv:5: "no" is not true or false`:                            {"prices-aws.csv", "aws,r,m5.large,1,no,2026"},
		"prices-aws.csv:5: aws has no regions":                                   {"prices-aws.csv", "aws,*,m5.large,1,false,2026"},
		`prices-aws.csv:5: m5.large of aws: as_of: "new" is not a day, month or`: {"prices-aws.csv", "aws,r,m5.large,1,false,new"},
		`prices-azure.csv has the columns`:                                       {"prices-azure.csv", ""},
	} {
		dir := maps.Clone(small())
		file := dir[change[0]]
		dir[change[0]] = &fstest.MapFile{Data: append([]byte(string(file.Data)), change[1]+"\n"...)}
		if change[1] == "" {
			dir[change[0]] = &fstest.MapFile{}
		}
		if _, _, err := Build(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
