package config

import (
	"regexp"
	"strings"
	"sync"
)

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
