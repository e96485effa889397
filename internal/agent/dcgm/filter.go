package dcgm

import "bytes"

// Filter keeps what a text of metrics says of some GPUs: their samples, and what describes the
// metrics of these, once each.
func Filter(text []byte, gpus []string) []byte {
	labels := make([][]byte, len(gpus))
	for i, id := range gpus {
		labels[i] = []byte(`UUID="` + id + `"`)
	}
	described := map[string][][]byte{} // lines about metrics that had no sample yet
	var out []byte
	for line := range bytes.Lines(text) {
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			continue
		}
		if line[0] == '#' {
			if f := bytes.Fields(line); len(f) > 2 && (string(f[1]) == "HELP" || string(f[1]) == "TYPE") {
				described[string(f[2])] = append(described[string(f[2])], line)
			}
			continue
		}
		if !speaksOf(line, labels) {
			continue
		}
		name := string(line[:bytes.IndexByte(line, '{')])
		for _, d := range described[name] {
			out = append(append(out, d...), '\n')
		}
		delete(described, name)
		out = append(append(out, line...), '\n')
	}
	return out
}

// speaksOf says that a sample has one of the labels. A quote in the value of another label has a
// backslash before it, so that no value looks like one.
func speaksOf(line []byte, labels [][]byte) bool {
	open := bytes.IndexByte(line, '{')
	if open <= 0 {
		return false
	}
	for _, l := range labels {
		rest := line[open:]
		for {
			at := bytes.Index(rest, l)
			if at < 0 {
				break
			}
			if at > 0 && (rest[at-1] == '{' || rest[at-1] == ',' || rest[at-1] == ' ') {
				return true
			}
			rest = rest[at+len(l):]
		}
	}
	return false
}
