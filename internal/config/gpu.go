package config

import (
	"math"
	"regexp"
	"strings"
	"sync"
)

// accelerator is a known kind of GPU.
type accelerator struct {
	name       string
	memory     []int  // nominal sizes in GiB
	capability [2]int // NVIDIA's compute capability: major, minor
}

// accelerators are the known kinds by vendor (catalog facts, lifecycle 25.2), each written
// as name, memory sizes and, after an @, compute capability. That of B300 and GB300 is 10.3,
// whatever the original's table says (catalog 11 #13).
var accelerators = sync.OnceValue(func() map[string][]accelerator {
	table := map[string]string{
		"nvidia": "A10 24@8.6,A16 16@8.6,A40 48@8.6,A100 40|80@8.0,A10G 24@8.6,A4000 16@8.6,A4500 20@8.6,A5000 24@8.6,A6000 48@8.6,H100 80@9.0,H100NVL 94@9.0,H200 141@9.0,H200NVL 141@9.0,B200 180@10.0,GB200 186@10.0,B300 270@10.3,GB300 270@10.3," +
			"L4 24@8.9,L40 48@8.9,L40S 48@8.9,P100 16@6.0,RTX2060 6|12@7.5,RTX2060SUPER 8@7.5,RTX2070 8@7.5,RTX2070SUPER 8@7.5,RTX2080 8@7.5,RTX2080SUPER 8@7.5,RTX2080Ti 11@7.5,RTX3050 6|8@8.6,RTX3060 8|12@8.6,RTX3060Ti 8@8.6," +
			"RTX3070 8@8.6,RTX3070Ti 8@8.6,RTX3080 10@8.6,RTX3080Ti 12@8.6,RTX3090 24@8.6,RTX3090Ti 24@8.6,RTX4060 8@8.9,RTX4060Ti 8|16@8.9,RTX4070 12@8.9,RTX4070SUPER 12@8.9,RTX4070Ti 12@8.9,RTX4070TiSUPER 16@8.9," +
			"RTX4080 16@8.9,RTX4080SUPER 16@8.9,RTX4090 24@8.9,RTX5060 8@12.0,RTX5060Ti 8|16@12.0,RTX5070 12@12.0,RTX5070Ti 16@12.0,RTX5080 16@12.0,RTX5090 32@12.0,RTX6000 24@7.5,RTX2000Ada 16@8.9,RTX4000Ada 20@8.9,RTX6000Ada 48@8.9," +
			"RTXPRO4500 32@12.0,RTXPRO6000 96@12.0,T4 16@7.5,V100 16|32@7.0,GH200 96@9.0",
		"amd":         "MI100 32,MI210 64,MI250 128,MI250X 128,MI300A 128,MI300X 192,MI308X 128,MI325X 288,MI350X 288,MI355X 288",
		"intel":       "Gaudi 32,Gaudi2 96,Gaudi3 128",
		"tenstorrent": "n150 12,n300 24,tt-galaxy-wh 12,p100a 28,p150 32,p300 32|64,tt-galaxy-bh 32",
	}
	known := map[string][]accelerator{}
	for vendor, text := range table {
		for _, entry := range strings.Split(text, ",") {
			name, facts, _ := strings.Cut(entry, " ")
			sizes, capability, _ := strings.Cut(facts, "@")
			major, minor, _ := strings.Cut(capability, ".")
			a := accelerator{name: name}
			for i, s := range []string{major, minor} {
				n, _ := looseInt(s)
				a.capability[i] = int(n)
			}
			for _, s := range strings.Split(sizes, "|") {
				n, _ := looseInt(s)
				a.memory = append(a.memory, int(n))
			}
			known[vendor] = append(known[vendor], a)
		}
	}
	return known
})

// GPUVendorOf is the vendor of a known GPU name, "" for an unknown one.
func GPUVendorOf(name string) string {
	for vendor, list := range accelerators() {
		for _, a := range list {
			if strings.EqualFold(a.name, name) {
				return vendor
			}
		}
	}
	version, cores, ok := strings.Cut(strings.ToLower(name), "-")
	if ok && cores != "" && allDigits(cores) {
		switch version {
		case "v2", "v3", "v4", "v5p", "v5litepod", "v6e":
			return "google"
		}
	}
	return ""
}

// GPUComputeCapability is the compute capability (major, minor) of a known NVIDIA GPU.
func GPUComputeCapability(name string) (capability [2]int, ok bool) {
	for _, a := range accelerators()["nvidia"] {
		if strings.EqualFold(a.name, name) {
			return a.capability, true
		}
	}
	return capability, false
}

// GPUMemoryMiB corrects what a driver reports: it is a little below the nominal size.
func GPUMemoryMiB(name string, mib int) int {
	gib := float64(mib) / 1024
	best := 0
	for _, list := range accelerators() {
		for _, a := range list {
			if a.name != name {
				continue
			}
			for _, size := range a.memory {
				if best == 0 || math.Abs(gib-float64(size)) < math.Abs(gib-float64(best)) {
					best = size
				}
			}
		}
	}
	if best > 0 && math.Abs(gib-float64(best)) < 0.07*float64(best) {
		return best * 1024
	}
	return int(math.Round(gib)) * 1024
}

var gpuPatterns = sync.OnceValue(func() map[string]*regexp.Regexp {
	return map[string]*regexp.Regexp{
		"super": regexp.MustCompile(`(?i) ?super`),
		"rtxa":  regexp.MustCompile(`A\d+`),
		"model": regexp.MustCompile(`[AHLPTV]\d+\w*`),
		"amd":   regexp.MustCompile(`^(?:(?i:AMD) )?(?:(?i:Instinct) )?(MI\d{1,3}[A-Z]?(?:-\w+)?)(?:\s|$)`),
	}
})

// GPUName turns what a vendor's tool calls a GPU into the catalog's name (host-agents 9.5).
func GPUName(vendor, raw string) string {
	re := gpuPatterns()
	switch vendor {
	case "nvidia":
		return nvidiaName(raw)
	case "amd":
		if m := re["amd"].FindStringSubmatch(raw); m != nil {
			if strings.HasPrefix(m[1], "MI300X-O") {
				return "MI300X"
			}
			return m[1]
		}
	case "intel":
		switch {
		case strings.HasPrefix(raw, "HL-205"):
			return "Gaudi"
		case strings.HasPrefix(raw, "HL-225"):
			return "Gaudi2"
		case strings.HasPrefix(raw, "HL-325"), strings.HasPrefix(raw, "HL-338"):
			return "Gaudi3"
		}
	}
	return raw
}

func nvidiaName(raw string) string {
	re := gpuPatterns()
	s := raw
	for _, word := range []string{"NVIDIA ", "Tesla ", "Quadro ", "GeForce "} {
		s = strings.ReplaceAll(s, word, "")
	}
	if strings.Contains(s, "GH200") {
		return "GH200"
	}
	if strings.Contains(s, "RTX A") {
		if m := re["rtxa"].FindString(strings.ReplaceAll(s, "RTX ", "")); m != "" {
			return m
		}
	}
	s = strings.ReplaceAll(s, " Ti", "Ti")
	s = re["super"].ReplaceAllString(s, "SUPER")
	s = strings.ReplaceAll(s, " NVL", "NVL")
	s = strings.ReplaceAll(s, " Ada Generation", "Ada")
	s = strings.ReplaceAll(s, "RTX ", "RTX")
	if m := re["model"].FindString(s); m != "" && !strings.HasPrefix(s, "RTX") {
		return m
	}
	return strings.ReplaceAll(s, " ", "")
}
