// Package dcgmtest has programs that stand in for NVIDIA's in tests, and what those print, as
// NVIDIA's documentation and sources have it.
package dcgmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Files beside the programs that have what they say; they may change at any time.
const (
	GPUsFile    = "gpus.csv"    // lines of nvidia-smi: see [GPUs]
	HealthFile  = "health.json" // a report of dcgmi; without it no host engine answers: see [Report]
	MetricsFile = "metrics.txt" // of dcgm-exporter: see [Exposition]
)

// Programs are the names of what can be installed.
var Programs = []string{"nvidia-smi", "dcgmi", "dcgm-exporter"}

// Build makes one static program, which is each of Programs by its name, and returns its path.
func Build(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fake")
	build := exec.Command("go", "build", "-o", path, "dstack/internal/agent/dcgm/dcgmtest/fake")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs that stand in for NVIDIA's: %v\n%s", err, out)
	}
	return path
}

// Install puts programs in front of the PATH of this process and returns their folder.
func Install(t *testing.T, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	if len(programs) > 0 {
		data, err := os.ReadFile(Build(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range programs {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return dir
}

// Write changes what the programs of a folder say.
func Write(t testing.TB, dir, file, text string) {
	t.Helper()
	part := filepath.Join(dir, file+".part") // so that nobody reads half of it
	if err := os.WriteFile(part, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(part, filepath.Join(dir, file)); err != nil {
		t.Fatal(err)
	}
}

// GPUs are H100s as nvidia-smi lists them.
func GPUs(uuids ...string) string {
	var b strings.Builder
	for _, id := range uuids {
		fmt.Fprintf(&b, "NVIDIA H100 80GB HBM3, 81559, %s, 570.86.15\n", id)
	}
	return b.String()
}

// Exposition is what dcgm-exporter says of GPUs. The first is used by so much percent, the others
// less.
func Exposition(percent int, uuids ...string) string {
	var b strings.Builder
	family := func(name, kind, help, more string, value func(n int) string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		for n, id := range uuids {
			fmt.Fprintf(&b, `%s{gpu="%d",UUID="%s",pci_bus_id="00000000:%02X:00.0",device="nvidia%d",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1",DCGM_FI_DRIVER_VERSION="570.86.15"%s} %s`+"\n",
				name, n, id, 0x18+n, n, more, value(n))
		}
	}
	family("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", "", func(n int) string { return fmt.Sprint(percent / (n + 1)) })
	family("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", "", func(n int) string { return fmt.Sprintf("%d.246000", 114+n) })
	family("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Energy consumed since boot (in mJ).", "", func(n int) string { return fmt.Sprint(9007199254740992 + n) })
	family("DCGM_FI_DEV_XID_ERRORS", "gauge", "Number of the last XID error.", `,err_code="0",err_msg="No Error"`, func(int) string { return "0" })
	family("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "gauge", "Share of cycles in which the tensor pipe is active.", "", func(int) string { return "0.003105" })
	return b.String()
}

// Report is one of dcgmi: that all is well, or a "Warning" or "Failure" of the first GPU's memory.
func Report(worst, finding string) string {
	if worst == "" {
		return "{\n\t\"body\" : \n\t{\n\t\t\"Overall Health\" : \n\t\t{\n\t\t\t\"value\" : \"Healthy\"\n\t\t}\n\t},\n\t\"header\" : \n\t[\n\t\t\"Health Monitor Report\"\n\t]\n}\n"
	}
	return fmt.Sprintf(`{
	"body" : 
	{
		"GPU" : 
		{
			"children" : 
			{
				"0" : 
				{
					"children" : 
					{
						"Errors" : 
						{
							"children" : 
							{
								"Memory system" : 
								{
									"overflow" : 
									[
										%q
									],
									"value" : %q
								}
							}
						}
					},
					"value" : %[2]q
				}
			}
		},
		"Overall Health" : 
		{
			"value" : %[2]q
		}
	},
	"header" : 
	[
		"Health Monitor Report"
	]
}
`, finding, worst)
}
