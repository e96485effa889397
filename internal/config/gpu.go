package config

import (
	"math"
	"regexp"
	"strings"
	"sync"
)

// accelerator is a known kind of GPU: its nominal memory sizes in GiB.
type accelerator struct {
	name   string
	memory []int
}

// accelerators are the known kinds by vendor (catalog facts, lifecycle 25.2).
var accelerators = sync.OnceValue(func() map[string][]accelerator {
	table := map[string]string{
		"nvidia": "A10 24,A16 16,A40 48,A100 40|80,A10G 24,A4000 16,A4500 20,A5000 24,A6000 48,H100 80,H100NVL 94,H200 141,H200NVL 141,B200 180,GB200 186,B300 270,GB300 270," +
			"L4 24,L40 48,L40S 48,P100 16,RTX2060 6|12,RTX2060SUPER 8,RTX2070 8,RTX2070SUPER 8,RTX2080 8,RTX2080SUPER 8,RTX2080Ti 11,RTX3050 6|8,RTX3060 8|12,RTX3060Ti 8," +
			"RTX3070 8,RTX3070Ti 8,RTX3080 10,RTX3080Ti 12,RTX3090 24,RTX3090Ti 24,RTX4060 8,RTX4060Ti 8|16,RTX4070 12,RTX4070SUPER 12,RTX4070Ti 12,RTX4070TiSUPER 16," +
			"RTX4080 16,RTX4080SUPER 16,RTX4090 24,RTX5060 8,RTX5060Ti 8|16,RTX5070 12,RTX5070Ti 16,RTX5080 16,RTX5090 32,RTX6000 24,RTX2000Ada 16,RTX4000Ada 20,RTX6000Ada 48," +
			"RTXPRO4500 32,RTXPRO6000 96,T4 16,V100 16|32,GH200 96",
		"amd":         "MI100 32,MI210 64,MI250 128,MI250X 128,MI300A 128,MI300X 192,MI308X 128,MI325X 288,MI350X 288,MI355X 288",
		"intel":       "Gaudi 32,Gaudi2 96,Gaudi3 128",
		"tenstorrent": "n150 12,n300 24,tt-galaxy-wh 12,p100a 28,p150 32,p300 32|64,tt-galaxy-bh 32",
	}
	known := map[string][]accelerator{}
	for vendor, text := range table {
		for _, entry := range strings.Split(text, ",") {
			name, sizes, _ := strings.Cut(entry, " ")
			a := accelerator{name: name}
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
