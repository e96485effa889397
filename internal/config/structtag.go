package config

import (
	"strconv"
	"strings"
)

func has(tag, word string) bool {
	for part := range strings.SplitSeq(tag, ",") {
		if part == word {
			return true
		}
	}
	return false
}

func text(tag, name string) (string, bool) {
	for part := range strings.SplitSeq(tag, ",") {
		if v, ok := strings.CutPrefix(part, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

func option(tag, name string) (float64, bool) {
	s, ok := text(tag, name)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}
