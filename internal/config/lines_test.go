package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// goldenLines calls test for every line of a .jsonl file of the golden data, decoded into T.
func goldenLines[T any](t *testing.T, file string, test func(t *testing.T, row T)) {
	t.Helper()
	files, err := golden()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(files[file]) {
		n++
		var row T
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatalf("%s:%d: %v", file, n, err)
		}
		t.Run(strconv.Itoa(n), func(t *testing.T) { test(t, row) })
	}
	if n == 0 {
		t.Fatalf("no lines in %s", file)
	}
}

// resourceRow is one value of resources.jsonl and what the original makes of it.
type resourceRow struct {
	Kind         string          `json:"kind"`
	In           json.RawMessage `json:"in"`
	Out          json.RawMessage `json:"out"`
	Error        *string         `json:"error"`
	Pretty       string          `json:"pretty"`
	Crash        bool            `json:"crash"`
	AcceptedNull bool            `json:"accepted_null"`
}

// resourceKinds says which of our types reads a kind, as a member of which document (the
// value itself when in is "") and where the normal form holds the result.
var resourceKinds = map[string]struct {
	in     string // the document around the value
	target any    // a pointer to our type
	out    string // dotted path of the result in the normal form
}{
	"memory":              {"", new(Memory), ""},
	"count":               {"", new(IntRange), ""},
	"range":               {"", new(MemoryRange), ""},
	"cpu":                 {`{"cpu":%s}`, new(Resources), "cpu"},
	"gpu":                 {`{"gpu":%s}`, new(Resources), "gpu"},
	"disk":                {`{"disk":%s}`, new(Resources), "disk"},
	"compute_capability":  {`{"compute_capability":%s}`, new(GPU), "compute_capability"},
	"resources":           {"", new(Resources), ""},
	"duration":            {"", new(Duration), ""},
	"duration_off":        {`{"max_duration":%s}`, new(Profile), "max_duration"},
	"duration_idle":       {`{"idle_duration":%s}`, new(Profile), "idle_duration"},
	"duration_inactivity": {`{"type":"dev-environment","inactivity_duration":%s}`, new(AnyRun), "inactivity_duration"},
	"port":                {"", new(PortMapping), ""},
	"service_port":        {`{"type":"service","image":"x","port":%s}`, new(AnyRun), "port"},
	"gateway_ref":         {`{"type":"service","image":"x","port":80,"gateway":%s}`, new(AnyRun), "gateway"},
	"fleet_ref":           {"", new(EntityRef), ""},
	"instance_selector":   {"", new(InstanceSelector), ""},
	"mount":               {"", new(Mount), ""},
	"file":                {"", new(FileMapping), ""},
	"repo":                {"", new(Repo), ""},
	"env":                 {"", new(Env), ""},
	"tags":                {`{"tags":%s}`, new(Profile), "tags"},
	"python":              {`{"type":"task","commands":["a"],"python":%s}`, new(AnyRun), "python"},
	"user":                {`{"type":"task","commands":["a"],"user":%s}`, new(AnyRun), "user"},
	"shell":               {`{"type":"task","commands":["a"],"shell":%s}`, new(AnyRun), "shell"},
	"nodes":               {`{"type":"fleet","nodes":%s}`, new(Fleet), "nodes"},
	"blocks":              {`{"type":"fleet","nodes":1,"blocks":%s}`, new(Fleet), "blocks"},
	"https":               {`{"type":"service","image":"x","port":80,"https":%s}`, new(AnyRun), "https"},
	"retry":               {`{"retry":%s}`, new(Profile), "retry"},
	"price":               {`{"max_price":%s}`, new(Profile), "max_price"},
	"priority":            {`{"type":"task","commands":["a"],"priority":%s}`, new(AnyRun), "priority"},
	"int":                 {"", new(int64), ""},
	"float":               {"", new(float64), ""},
	"bool":                {"", new(bool), ""},
	"str":                 {"", new(string), ""},
	"str_list":            {"", new([]string), ""},
	"str_map":             {"", new(map[string]string), ""},
}

// differs are values whose normal form differs on purpose.
var differs = map[string]string{
	`repo "https://u:p@h/o/r"`:  "a URL keeps its password",
	`repo "ssh://git@h:22/o/r"`: "a URL keeps its port",
}

func TestResourceLines(t *testing.T) {
	goldenLines(t, "resources.jsonl", func(t *testing.T, row resourceRow) {
		k, ok := resourceKinds[row.Kind]
		if !ok {
			t.Fatalf("nothing of ours reads the kind %s", row.Kind)
		}
		doc := string(row.In)
		if k.in != "" {
			doc = fmt.Sprintf(k.in, row.In)
		}
		v := reflect.New(reflect.TypeOf(k.target).Elem())
		err := decodeFloats(t, doc, v)
		if row.Kind == "compute_capability" && string(row.In) == "null" {
			return // recorded without the field around it, where null is absence
		}
		if row.Error != nil || refused(row) != "" {
			if err == nil {
				t.Errorf("%s %s is accepted as %s; the original says %v, we refuse: %s", row.Kind, row.In, mustJSON(t, v.Interface()), row.Error, refused(row))
			}
			return
		}
		if err != nil {
			t.Fatalf("%s %s is refused: %v; the original makes %s of it", row.Kind, row.In, err, row.Out)
		}
		if differs[row.Kind+" "+string(row.In)] != "" {
			return
		}
		got := member(t, mustJSON(t, v.Interface()), k.out)
		if diff := cmp.Diff(anyOf(t, row.Out), anyOf(t, got)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", row.Kind, row.In, diff)
		}
	})
}

// refused says why we refuse what the original accepts, "" where we do not.
func refused(r resourceRow) string {
	in := string(r.In)
	hasBool := bareBool.MatchString(in)
	escaped := strings.HasSuffix(in, `\n"`) || strings.HasSuffix(in, `\n"}`)
	numeric := true // digits count
	switch r.Kind {
	case "memory", "float", "price":
		if r.AcceptedNull {
			return "infinity and not-a-number are no sizes or prices"
		}
	case "range", "disk", "gpu", "resources":
		if notFinite.MatchString(r.Pretty) {
			return "infinity and not-a-number are no sizes"
		}
	case "str", "str_list", "str_map", "env", "mount", "file", "repo":
		numeric = false
	}
	switch r.Kind {
	case "memory", "count", "range", "cpu", "gpu", "disk", "resources":
		if negative.MatchString(r.Pretty) || strings.Contains(in, `"shm_size": -`) {
			return "sizes and counts are not negative"
		}
		if hasBool {
			return "booleans are no numbers or names"
		}
	case "port", "service_port", "nodes", "blocks", "price", "priority", "int", "float":
		if hasBool {
			return "booleans are no numbers"
		}
		if escaped && strings.HasSuffix(r.Kind, "port") {
			return "ports do not end in a line break"
		}
	case "tags":
		if escaped {
			return "tags do not end in a line break"
		}
	case "retry":
		if strings.Contains(in, `"duration": -`) {
			return "the server of the original refuses it"
		}
	case "mount":
		if strings.HasPrefix(in, `":`) || strings.Contains(in, `"name": ""`) || strings.Contains(in, `"name": []`) {
			return "a volume has a name"
		}
	case "str":
		if strings.Contains(in, `\u0000`) {
			return "no variable, path or database takes a NUL"
		}
	}
	switch {
	case r.Crash:
		return "the original crashes"
	case numeric && otherDigits.MatchString(in):
		return "digits are 0 to 9"
	case numeric && !slices.Contains([]string{"memory", "range", "disk", "float", "price"}, r.Kind) && beyond64Bits(r.Out):
		return "whole numbers have 64 bits"
	}
	return ""
}

var (
	bareBool    = regexp.MustCompile(`(^|[^"a-z])(true|false)([^"a-z]|$)`)
	notFinite   = regexp.MustCompile(`(inf|nan)GB`)
	negative    = regexp.MustCompile(`(^|[=:]|\.\.)-[0-9.]*[1-9]`)
	otherDigits = regexp.MustCompile(`\\u(066|ff1)`) // as JSON escapes them
	longNumber  = regexp.MustCompile(`-?[0-9]{19,}`)
)

func beyond64Bits(data []byte) bool {
	for _, digits := range longNumber.FindAllString(string(data), -1) {
		if _, err := strconv.ParseInt(digits, 10, 64); err != nil {
			return true
		}
	}
	return false
}

// decodeFloats decodes as a request does; {"$float": "inf"} stands for such a number of YAML.
func decodeFloats(t *testing.T, doc string, v reflect.Value) error {
	t.Helper()
	n, _, err := parseJSON([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	putFloats(n)
	d := &decoder{}
	d.value(n, nil, v.Elem(), "")
	if len(d.problems) > 0 {
		return &Errors{d.problems}
	}
	return nil
}

func putFloats(n *node) {
	if f := n.get("$float"); f != nil {
		*n = node{kind: floatKind, float: map[string]float64{"inf": math.Inf(1), "-inf": math.Inf(-1), "nan": math.NaN()}[f.text]}
	}
	for _, item := range n.list {
		putFloats(item)
	}
	for _, k := range n.keys {
		putFloats(n.values[k])
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func anyOf(t *testing.T, data []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return v
}

// member follows a dotted path into a JSON document.
func member(t *testing.T, doc []byte, path string) []byte {
	t.Helper()
	if path == "" {
		return doc
	}
	for key := range strings.SplitSeq(path, ".") {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(doc, &m); err != nil {
			t.Fatal(err)
		}
		if doc = m[key]; doc == nil {
			return []byte("null")
		}
	}
	return doc
}

func TestInterpolationLines(t *testing.T) {
	deferred := map[string][]string{"strict": nil, "secrets": {"secrets"}, "commands": {"secrets", "groups"}}
	goldenLines(t, "interpolation.jsonl", func(t *testing.T, row struct {
		In, Deferred string
		Namespaces   map[string]map[string]string
		Out, Error   *string
	}) {
		got, err := Interpolate(row.In, row.Namespaces, deferred[row.Deferred]...)
		if strings.Contains(row.In, "secrets.x-y") { // a secret may be named so: ours can be referenced too (configurations 16, row 10)
			if err != nil && strings.Contains(err.Error(), "Illegal reference name") {
				t.Errorf("%s: %v", row.In, err)
			}
			return
		}
		compareText(t, row.In+" "+row.Deferred, got, err, row.Out, row.Error)
	})
}

// compareText compares a text or the sentence of an error with what the original gives.
func compareText(t *testing.T, in, got string, err error, want, wantErr *string) {
	t.Helper()
	switch {
	case wantErr != nil && err == nil:
		t.Errorf("%s is accepted as %q; the original says %s", in, got, *wantErr)
	case wantErr != nil && err.Error() != *wantErr:
		t.Errorf("%s: error %q, want %q", in, err, *wantErr)
	case wantErr == nil && err != nil:
		t.Errorf("%s is refused: %v; the original makes %q of it", in, err, *want)
	case wantErr == nil && got != *want:
		t.Errorf("%s: got %q, want %q", in, got, *want)
	}
}

// lenientCron are expressions whose ends the original ignores or whose digits are others.
var lenientCron = map[string]bool{"* * last-1 * *": true, "* * * * mon-sun-tue": true, "٥ * * * *": true}

func TestCronLines(t *testing.T) {
	goldenLines(t, "cron.jsonl", func(t *testing.T, row struct {
		Expr  string
		Now   time.Time
		Next  []*time.Time
		Error *string
	}) {
		c, err := ParseCron(row.Expr)
		if row.Error != nil || lenientCron[row.Expr] || len(row.Next) == 0 || row.Next[0] == nil {
			if err == nil {
				t.Errorf("%q is accepted; the original says %v", row.Expr, row.Error)
			}
			return
		}
		if err != nil {
			t.Fatalf("%q is refused: %v; the original fires at %v", row.Expr, err, row.Next)
		}
		// The recorded times start with the present minute if it fires at second 0.
		at := row.Now.Add(-time.Nanosecond)
		for i, want := range row.Next {
			if at = c.Next(at); want == nil || !at.Equal(*want) {
				t.Fatalf("%q from %v: firing %d is at %v, want %v", row.Expr, row.Now, i, at, want)
			}
		}
	})
}

func TestShellLines(t *testing.T) {
	goldenLines(t, "shell-split.jsonl", func(t *testing.T, row struct {
		In    string
		Out   []string
		Error *string
	}) {
		got, err := ShellSplit(row.In)
		if (err != nil) != (row.Error != nil) {
			t.Fatalf("%q: error %v, want %v", row.In, err, row.Error)
		}
		if diff := cmp.Diff(row.Out, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", row.In, diff)
		}
	})
	type row struct {
		In  []string
		Out string
	}
	goldenLines(t, "shell-join.jsonl", func(t *testing.T, r row) {
		if got := ShellJoin(r.In); got != r.Out {
			t.Errorf("%q: got %s, want %s", r.In, got, r.Out)
		}
	})
	goldenLines(t, "shell-commands.jsonl", func(t *testing.T, r row) {
		if got := JoinCommands(r.In); got != r.Out {
			t.Errorf("%q: got %s, want %s", r.In, got, r.Out)
		}
	})
}

func TestNameLines(t *testing.T) {
	goldenLines(t, "names.jsonl", func(t *testing.T, row struct {
		In              string
		Group, Resource bool
	}) {
		if got := CheckName(row.In) == nil; got != row.Resource && !strings.HasSuffix(row.In, "\n") {
			t.Errorf("CheckName(%q) accepts: %v, want %v", row.In, got, row.Resource)
		}
		if got := isGroupName(row.In); got != row.Group && !strings.HasSuffix(row.In, "\n") {
			t.Errorf("isGroupName(%q) = %v, want %v", row.In, got, row.Group)
		}
	})
}

func TestUnixUserLines(t *testing.T) {
	goldenLines(t, "unix-user.jsonl", func(t *testing.T, row struct {
		In  string
		Out struct {
			UID, GID            *json.Number
			Username, Groupname string
		}
		Error *string
	}) {
		got, err := ParseUnixUser(row.In)
		if row.Error != nil {
			if err == nil || err.Error() != *row.Error {
				t.Errorf("%q: error %v, want %s", row.In, err, *row.Error)
			}
			return
		}
		if row.In == "٣" || row.In == "999999999999999999999" {
			if err == nil {
				t.Errorf("%q is accepted, but a uid has 64 bits and the digits 0 to 9", row.In)
			}
			return
		}
		if err != nil {
			t.Fatalf("%q is refused: %v", row.In, err)
		}
		id := func(n *json.Number) *int64 {
			if n == nil {
				return nil
			}
			v, err := n.Int64()
			if err != nil {
				t.Fatal(err)
			}
			return &v
		}
		want := User{UID: id(row.Out.UID), Username: row.Out.Username, GID: id(row.Out.GID), Groupname: row.Out.Groupname}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", row.In, diff)
		}
	})
}

func TestGPULines(t *testing.T) {
	names := map[string]string{"convert_nvidia_gpu_name": "nvidia", "convert_amd_gpu_name": "amd", "convert_intel_accelerator_name": "intel"}
	goldenLines(t, "gpu-names.jsonl", func(t *testing.T, row struct {
		Fn      string
		In, Out json.RawMessage
		Crash   bool
	}) {
		var got any
		switch in := anyOf(t, row.In).(type) {
		case []any: // a name and MiB, in GiB
			got = float64(GPUMemoryMiB(in[0].(string), int(in[1].(float64))) / 1024)
		case string:
			switch vendor := names[row.Fn]; {
			case row.Crash: // functions that the original's catalog no longer has
				return
			case row.Fn == "is_nvidia_superchip": // a machine's CPU is read from the machine or its offer
				return
			case in == "v4-\u0668": // digits are 0 to 9
				return
			case row.Fn == "detect_gpu_vendors_by_gpu_name":
				got = []any{}
				if v := GPUVendorOf(in); v != "" {
					got = []any{v}
				}
			case vendor != "":
				got = GPUName(vendor, in)
			default:
				t.Fatalf("nothing of ours does %s", row.Fn)
			}
		}
		if diff := cmp.Diff(anyOf(t, row.Out), got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", row.Fn, row.In, diff)
		}
	})
}

func TestAcceleratorLines(t *testing.T) {
	goldenLines(t, "known-accelerators.jsonl", func(t *testing.T, row struct {
		Name, Vendor string
		MemoryGB     int `json:"memory_gb"`
	}) {
		name := row.Name
		if row.Vendor == "google" {
			name += "-8" // a version with its number of cores
		}
		if got := GPUVendorOf(name); got != row.Vendor {
			t.Errorf("the vendor of %s is %q, want %q", name, got, row.Vendor)
		}
		// Drivers report less than the nominal size.
		if got := GPUMemoryMiB(row.Name, row.MemoryGB*1024-300); row.Vendor != "google" && got != row.MemoryGB*1024 {
			t.Errorf("the memory of %s is %d MiB, want %d", row.Name, got, row.MemoryGB*1024)
		}
	})
}

func TestImageLines(t *testing.T) {
	goldenLines(t, "docker-image.jsonl", func(t *testing.T, row struct {
		In  string
		Out struct{ Image, Registry, Repo, Tag, Digest string }
	}) {
		got, err := ParseImage(row.In)
		if row.Out.Image == "" || row.Out.Repo == "" || row.Out.Tag == "" || strings.HasSuffix(row.In, "@") {
			if err == nil {
				t.Errorf("%q is accepted as %+v", row.In, got)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		want := Image{Registry: row.Out.Registry, Repo: row.Out.Repo, Tag: row.Out.Tag, Digest: row.Out.Digest}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", row.In, diff)
		}
	})
}
