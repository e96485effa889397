package pricelist

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/offer"
)

const csvHeader = "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,gpu_vendor,flags,cpu_arch,provider_data\n"

func TestReadCSV(t *testing.T) {
	base := Row{Backend: "aws", Instance: "x", Region: "r", CPUs: 4, MemoryMiB: 16 << 10, Arch: "x86", Price: 0.526, AsOf: "2026-08-01"}
	with := func(change func(*Row)) []Row {
		r := base
		change(&r)
		return []Row{r}
	}
	gpu := func(n int, name string, gib int, vendor string) func(*Row) {
		return func(r *Row) { r.GPUs, r.GPU = n, offer.GPU{Name: name, MemoryMiB: gib << 10, Vendor: vendor} }
	}
	for name, tt := range map[string]struct {
		file, text string // "" is aws.csv
		want       []Row
	}{
		"a machine":               {"", "x,r,0.526,4,16.0,0,,,False,,,,,{}", []Row{base}},
		"missing columns":         {"", "x,r,0.526,4,16.0,0,,,false", []Row{base}},
		"spot, arm, disk":         {"", "x,r,0.526,4,16.0,0,,,TRUE,100.5,,,arm,", with(func(r *Row) { r.Spot, r.Arch, r.DiskMiB = true, "arm", 102912 })},
		"a GPU of an old file":    {"", "x,r,0.526,4,16.0,1,T4,16.0,False,,,,x86,{}", with(gpu(1, "T4", 16, "nvidia"))},
		"memory as reported":      {"", "x,r,0.526,4,16.0,8,B200,179.06,False,,nvidia,,x86,{}", with(gpu(8, "B200", 180, "nvidia"))},
		"a part of a GPU":         {"", "x,r,0.526,4,16.0,1,A10,4,False,,nvidia,,x86,{}", with(gpu(1, "A10", 4, "nvidia"))},
		"a name in another case":  {"", "x,r,0.526,4,16.0,1,rtx6000ADA,48,False,,nvidia,,x86,{}", with(gpu(1, "RTX6000Ada", 48, "nvidia"))},
		"the vendor is wrong":     {"", "x,r,0.526,4,16.0,1,MI25,16,False,,nvidia,,x86,{}", with(gpu(1, "MI25", 16, "amd"))},
		"TPUs with a chip's size": {"", "x,r,0.526,4,16.0,1,tpu-v5p-8,95,False,,,,x86,{}", with(gpu(1, "v5p-8", 380, "google"))},
		"TPUs that are whole":     {"", "x,r,0.526,4,16.0,1,v6e-4,128,False,,google,,x86,{}", with(gpu(1, "v6e-4", 128, "google"))},
		"MI325X of the original":  {"", "x,r,0.526,4,16.0,8,MI325X,288,False,,amd,,x86,{}", with(gpu(8, "MI325X", 256, "amd"))},
		"MI355X has that much":    {"", "x,r,0.526,4,16.0,8,MI355X,288,False,,amd,,x86,{}", with(gpu(8, "MI355X", 288, "amd"))},
		"memory of all GPUs":      {"digitalocean.csv", "x,r,0.526,4,16.0,8,H100,640,False,,nvidia,,x86,{}", with(func(r *Row) { gpu(8, "H100", 80, "nvidia")(r); r.Backend = "digitalocean" })},
		"GPUs not found out":      {"", "x,r,0.526,4,16.0,0,,,False,,,,,{}\np5.48xlarge,r,55,192,2048,0,,,False,,,,,{}\ngr6.4xlarge,r,1,16,128,0,,,False,,,,,{}", []Row{base}},
		"a mark of UTF-8":         {"MARK", "x,r,0.526,4,16.0,0,,,False,,,,,{}", []Row{base}},
		"a small number":          {"", "x,r,5.26e-01,4,16.0,0,,,False,,,,,{}", []Row{base}},
		"a known flag":            {"", "x,r,0.526,4,16.0,0,,,False,,,oci-spot gcp-g4,x86,{}", []Row{base}},
		"flags that hide":         {"", "x,r,0.526,4,16.0,0,,,False,,,,,{}\nx,r,9,4,16.0,0,,,False,,,gcp-g4 secret,,{}\nx,r,9,4,16.0,0,,,False,,,runpod-cluster,,{}", []Row{base}},
		"another provider's name": {"lambdalabs.csv", "x,r,0.526,4,16.0,0,,,False,,,,,{}", with(func(r *Row) { r.Backend = "lambda" })},
		"zones":                   {"gcp.csv", "x,us-west2-c,0.526,4,16.0,0,,,False,,,,,\"{\"\"a\"\": 1}\"", with(func(r *Row) { r.Backend, r.Region, r.Zone = "gcp", "us-west2", "us-west2-c" })},
	} {
		t.Run(name, func(t *testing.T) {
			var b Builder
			mark := ""
			switch tt.file {
			case "":
				tt.file = "aws.csv"
			case "MARK":
				tt.file, mark = "aws.csv", "\ufeff"
			}
			if err := b.ReadCSV(strings.NewReader(mark+csvHeader+tt.text+"\n"), tt.file, "2026-08-01"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, rowsOf(b.List())); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadCSVWithOtherColumns(t *testing.T) {
	var b Builder
	text := "note,spot,price,location,gpu_count,memory,cpu,instance_name\nhi,False,1,r,0,2,3,x\n"
	if err := b.ReadCSV(strings.NewReader(text), "aws.csv", "2026"); err != nil {
		t.Fatal(err)
	}
	if r := b.List().Row(0); r.Instance != "x" || r.CPUs != 3 || r.MemoryMiB != 2048 {
		t.Errorf("got %+v", r)
	}
}

func TestReadCSVRefuses(t *testing.T) {
	const good = "x,r,0.526,4,16.0,1,T4,16.0,False,,nvidia,,x86,{}\n"
	for want, row := range map[string]string{
		`price: "NaN" is not a number`:                                              "y,r,NaN,4,16.0,0,,,False,,,,,{}",
		`price: "1e999" is not a number`:                                            "y,r,1e999,4,16.0,0,,,False,,,,,{}",
		`price: "0x1p-2" is not a number`:                                           "y,r,0x1p-2,4,16.0,0,,,False,,,,,{}",
		`price: "0x_1p-2" is not a number`:                                          "y,r,0x_1p-2,4,16.0,0,,,False,,,,,{}",
		`price: "1_0" is not a number`:                                              "y,r,1_0,4,16.0,0,,,False,,,,,{}",
		`price: "Infinity" is not a number`:                                         "y,r,Infinity,4,16.0,0,,,False,,,,,{}",
		`price: "+1" is not a number`:                                               "y,r,+1,4,16.0,0,,,False,,,,,{}",
		`price: 1e-300 is not 0.0001 to 100000 US dollars per hour`:                 "y,r,1e-300,4,16.0,0,,,False,,,,,{}",
		`price: 0 is not 0.0001 to 100000 US dollars per hour`:                      "y,r,0,4,16.0,0,,,False,,,,,{}",
		`cpu: "0x4" is not a whole number`:                                          "y,r,1,0x4,16.0,0,,,False,,,,,{}",
		`cpu: "1_6" is not a whole number`:                                          "y,r,1,1_6,16.0,0,,,False,,,,,{}",
		`memory: "0x10" is not a number`:                                            "y,r,1,4,0x10,0,,,False,,,,,{}",
		`gpu_count: -1 is not 0 to 128`:                                             "y,r,1,4,16,-1,T4,16,False,,nvidia,,,{}",
		`gpu_count: 129 is not 0 to 128`:                                            "y,r,1,4,16,129,T4,16,False,,nvidia,,,{}",
		`gpu_vendor: "acme" is not nvidia, amd, google, intel or tenstorrent`:       "y,r,1,4,16,1,T4,16,False,,acme,,,{}",
		`price: -3 is not 0.0001 to 100000 US dollars per hour`:                     "y,r,-3,4,16.0,0,,,False,,,,,{}",
		`price: "" is not a number`:                                                 "y,r,,4,16.0,0,,,False,,,,,{}",
		`instance_name: "" is not a name of 1 to 200 bytes`:                         ",r,1,4,16.0,0,,,False,,,,,{}",
		`location: is empty`:                                                        "y,,1,4,16.0,0,,,False,,,,,{}",
		`cpu: "4.0" is not a whole number`:                                          "y,r,1,4.0,16.0,0,,,False,,,,,{}",
		`cpu: "99999999999999999999" is not a whole number`:                         "y,r,1,99999999999999999999,16.0,0,,,False,,,,,{}",
		`memory: "-1" is not a size in GB`:                                          "y,r,1,4,-1,0,,,False,,,,,{}",
		`memory: "1e300" is not a size in GB`:                                       "y,r,1,4,1e300,0,,,False,,,,,{}",
		`disk_size: is not above 0`:                                                 "y,r,1,4,16,0,,,False,0,,,,{}",
		`spot: "yes" is not True or False`:                                          "y,r,1,4,16,0,,,yes,,,,,{}",
		`gpu_count: is 0, but a GPU is described`:                                   "y,r,1,4,16,0,T4,16,False,,,,,{}",
		`gpu_name: "" is not a known accelerator`:                                   "y,r,1,4,16,1,,16,False,,nvidia,,,{}",
		`gpu_memory: "" is not a number`:                                            "y,r,1,4,16,1,T4,,False,,nvidia,,,{}",
		`cpu_arch: "mips" is not x86 or arm`:                                        "y,r,1,4,16,0,,,False,,,,mips,{}",
		`price: -9 is not 0.0001 to 100000 US dollars per hour`:                     "y,r,-9,4,16,1,B999,16,False,,nvidia,,,{}",
		`price: -8 is not 0.0001 to 100000 US dollars per hour`:                     "y,r,-8,4,16,0,,,False,,,secret,,{}",
		`cpu: 0 is not 1 to 100000`:                                                 "y,r,1,0,16,1,B999,16,False,,nvidia,secret,,{}",
		`memory: 0 MiB is not 1 to 1099511627776`:                                   "p5.48xlarge,r,55,192,0,0,,,False,,,,,{}",
		`instance_name: "y\u202ez" is not a name of 1 to 200 bytes`:                 "y\u202ez,r,1,4,16,0,,,False,,,,,{}",
		`location: "r\u200b" is not a name of 1 to 200 bytes`:                       "y,r\u200b,1,4,16,1,B999,16,False,,nvidia,,,{}",
		`provider_data: is not JSON`:                                                "y,r,1,4,16,0,,,False,,,,,{",
		`instance_name: x in "r" is there twice`:                                    "x,r,2,4,16.0,1,T4,16.0,False,,nvidia,,x86,{}",
		"parse error on line 3, column 8: extraneous or missing \" in quoted-field": "\"y,r,1",
	} {
		var b Builder
		err := b.ReadCSV(strings.NewReader(csvHeader+good+row+"\n"), "aws.csv", "2026")
		bad, ok := errors.AsType[*RowError](err)
		if !ok || bad.Row != 2 || bad.Err.Error() != want {
			t.Errorf("%s: error %v, want row 2: %s", row, err, want)
		}
	}
	for want, text := range map[string]string{
		"aws.csv: read the header: EOF": "",
		"aws.csv: has no rows to show":  csvHeader,
		"aws.csv: has no rows to show: these accelerators are not known: B999, B0, B1, B2, B3 and 1 more": csvHeader +
			"a,r,1,4,16,1,B999,16,False,,nvidia,,,{}\nb,r,1,4,16,1,B0,16,False,,nvidia,,,{}\nb,r,1,4,16,1,B1,16,False,,nvidia,,,{}\n" +
			"b,r,1,4,16,1,B2,16,False,,nvidia,,,{}\nb,r,1,4,16,1,B3,16,False,,nvidia,,,{}\nb,r,1,4,16,1,B4,16,False,,nvidia,,,{}\n",
		"aws.csv: price: the file lacks this column":    "instance_name,location\nx,r\n",
		`aws.csv: instance_name: the file lacks this c`: "\x00\xff\n",
		"aws.csv: price: the file has two such columns": "price," + csvHeader,
	} {
		var b Builder
		if err := b.ReadCSV(strings.NewReader(text), "aws.csv", "2026"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", text, err, want)
		}
	}
	for _, name := range []string{"aws", "acme.csv", ".csv"} {
		var b Builder
		if err := b.ReadCSV(strings.NewReader(csvHeader+good), name, "2026"); err == nil {
			t.Errorf("a file %s was read", name)
		}
	}
}

// A catalog may be newer than the program.
func TestReadCSVLeavesUnknownAcceleratorsOut(t *testing.T) {
	var b Builder
	text := csvHeader + "a,r,1,4,16,1,B999,16,False,,nvidia,,,{}\nb,r,1,4,16,1,T4,16,False,,nvidia,,,{}\nc,r,1,4,16,1,B999,16,False,,nvidia,,,{}\n"
	if err := b.ReadCSV(strings.NewReader(text), "aws.csv", "2026"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"B999"}, b.Unknown()); diff != "" {
		t.Errorf("Unknown (-want +got):\n%s", diff)
	}
	if l := b.List(); l.Len() != 1 || l.Row(0).Instance != "b" {
		t.Errorf("rows %+v", rowsOf(l))
	}
}

// endless repeats a text.
type endless struct {
	text string // with # for the number of the repetition
	now  string
	n    int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.now == "" {
		e.now = strings.ReplaceAll(e.text, "#", strconv.Itoa(e.n))
		e.n++
	}
	n := copy(p, e.now)
	e.now = e.now[n:]
	return n, nil
}

// Rows that are passed over are there once, too.
func TestReadCSVTwice(t *testing.T) {
	for name, tt := range map[string]struct {
		rows string
		row  int // that is refused, 0 for none
	}{
		"hidden":              {"a,r,1,4,16,0,,,False,,,secret,,{}\na,r,2,4,16,0,,,False,,,secret,,{}\n", 3},
		"for other reasons":   {"a,r,1,4,16,0,,,False,,,secret,,{}\na,r,2,4,16,0,,,False,,,other,,{}\n", 0},
		"beside one to show":  {"a,r,1,4,16,0,,,False,,,secret,,{}\na,r,2,4,16,0,,,False,,,,,{}\n", 0},
		"elsewhere":           {"a,r,1,4,16,0,,,False,,,secret,,{}\na,s,2,4,16,0,,,False,,,secret,,{}\n", 0},
		"unknown accelerator": {"a,r,1,4,16,1,B999,16,False,,nvidia,,,{}\na,r,2,4,16,1,B999,16,False,,nvidia,,,{}\n", 3},
		"GPUs not told":       {"p5.48xlarge,r,1,4,16,0,,,False,,,,,{}\np5.48xlarge,r,2,4,16,0,,,False,,,,,{}\n", 3},
	} {
		t.Run(name, func(t *testing.T) {
			var b Builder
			err := b.ReadCSV(strings.NewReader(csvHeader+"y,r,1,4,16,0,,,False,,,,,{}\n"+tt.rows), "aws.csv", "2026")
			bad, _ := errors.AsType[*RowError](err)
			if got := err == nil; got != (tt.row == 0) || bad != nil && bad.Row != tt.row {
				t.Errorf("error %v, want row %d to be refused", err, tt.row)
			}
		})
	}
}

func TestReadCSVIsBounded(t *testing.T) {
	for text, want := range map[string]string{
		"x#,r,1,1,1,0,,,False,,,secret,,{}\n": "aws.csv: row 1001: there are more than 1000 rows",
		"\n":                                  "aws.csv: larger than 100000 bytes",
		"x":                                   "aws.csv: row 1: a line is longer than 65536 bytes",
	} {
		var b Builder
		in := io.MultiReader(strings.NewReader(csvHeader), &endless{text: text})
		if err := b.readCSV(in, "aws.csv", "2026", limits{100_000, 1000}); err == nil || err.Error() != want {
			t.Errorf("an endless %q: error %v, want %s", text, err, want)
		}
	}
}

// What rows differ in is refused when it is too much, before it fills the memory.
func TestReadCSVBoundsWhatRowsDifferIn(t *testing.T) {
	for name, tt := range map[string]struct{ row, column string }{
		"types":                          {"t#,r,1,1,1,0,,,False,,,,,{}", "instance_name"},
		"places":                         {"t,r#,1,1,1,0,,,False,,,,,{}", "location"},
		"types with different disks":     {"t,r#,1,1,1,0,,,False,#,,,,{}", "instance_name"},
		"types that are passed over":     {"t#,r,1,1,1,0,,,False,,,secret,,{}", "instance_name"},
		"places that are passed over":    {"t,r#,1,1,1,0,,,False,,,secret,,{}", "location"},
		"flags":                          {"t,r,1,1,1,0,,,False,,,secret#,,{}", "location"},
		"accelerators that nobody knows": {"t,r,1,1,1,1,X#,1,False,,,,,{}", "gpu_name"},
	} {
		t.Run(name, func(t *testing.T) {
			var text strings.Builder
			text.WriteString(csvHeader)
			for n := range maxDistinct + 2 {
				text.WriteString(strings.ReplaceAll(tt.row, "#", strconv.Itoa(n+1)) + "\n")
			}
			var b Builder
			err := b.ReadCSV(strings.NewReader(text.String()), "aws.csv", "2026")
			bad, _ := errors.AsType[*RowError](err)
			field, _ := errors.AsType[*FieldError](err)
			if bad == nil || field == nil || bad.Row != maxDistinct+1 || field.Column != tt.column {
				t.Errorf("error %v, want row %d to be refused for its %s", err, maxDistinct+1, tt.column)
			}
		})
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	day := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, day, day); err != nil {
			t.Fatal(err)
		}
		return path
	}
	archive := func(files map[string]string) []byte {
		var out bytes.Buffer
		zw := zip.NewWriter(&out)
		for name, text := range files {
			w, err := zw.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	const text = csvHeader + "x,r,0.526,4,16.0,0,,,False,,,,,{}\n"
	for _, path := range []string{write("aws.csv", []byte(text)), write("catalog.zip", archive(map[string]string{"aws.csv": text}))} {
		l, _, err := ReadFile(path, day)
		if err != nil {
			t.Fatal(err)
		}
		if rows := rowsOf(l); len(rows) != 1 || rows[0].AsOf != "2026-08-01" || rows[0].Backend != "aws" {
			t.Errorf("%s has %+v", path, rows)
		}
	}
	bomb := func() []byte { // says that it is larger than it may be
		var out bytes.Buffer
		zw := zip.NewWriter(&out)
		if _, err := zw.CreateRaw(&zip.FileHeader{Name: "aws.csv", UncompressedSize64: maxCSV + 1}); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	zipped := archive(map[string]string{"aws.csv": text})
	flipped := bytes.Clone(zipped)
	flipped[bytes.Index(flipped, []byte("PK\x07\x08"))-8] ^= 0xff // at the end of the compressed rows
	late := write("gcp.csv", []byte(text))
	if err := os.Chtimes(late, time.Time{}, time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	for want, path := range map[string]string{
		"no such file":               filepath.Join(dir, "none.csv"),
		"is not a file":              dir,
		"aws.csv: read the header: ": write("flipped.zip", flipped),
		"gcp.csv was last changed on 2099-01-01, a day to come": late,
		"not a valid zip file":            write("cut.zip", zipped[:len(zipped)-9]),
		"two.zip: the archive of a cat":   write("two.zip", archive(map[string]string{"aws.csv": text, "gcp.csv": text})),
		"up.zip: the archive of a catal":  write("up.zip", archive(map[string]string{"../aws.csv": text})),
		"the file of a catalog is named":  write("catalog.txt", []byte(text)),
		"bomb.zip: the archive unpacks t": write("bomb.zip", bomb()),
	} {
		if _, _, err := ReadFile(path, day); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", path, err, want)
		}
	}
}

func FuzzReadCSV(f *testing.F) {
	f.Add(csvHeader + "x,r,0.526,4,16.0,1,T4,16.0,False,,nvidia,,x86,{}\n")
	f.Add(csvHeader + "x,us-west2-c,51.5,224,3968.0,1,tpu-v5p-8,95,True,7,,gcp-a4,arm,\"{\"\"a\"\": 1}\"\n")
	f.Add("spot,price\n\"")
	f.Fuzz(func(t *testing.T, text string) {
		var b Builder
		if err := b.ReadCSV(strings.NewReader(text), "gcp.csv", "2026-08-01"); err != nil {
			return // refusing is fine
		}
		l := b.List()
		for _, r := range rowsOf(l) {
			if err := check(r); err != nil {
				t.Errorf("%+v was taken: %v", r, err)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, data := range []string{"\x00\x00\x00\x00\x00", "\x01\x01x\x01\x042026\x01\x00\x00\x00\x01\x01\x00\x00\x01\x00\x00\x01\x01\x00\x00\x00\x01"} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Decode(bytes.NewReader(packed(t, magic+string(data))))
		if err != nil {
			return
		}
		rowsOf(l)
	})
}
