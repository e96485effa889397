package apply

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var (
	refName   = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*\.[a-zA-Z_][a-zA-Z0-9_]*$`)
	groupName = regexp.MustCompile(`^groups\[\d+\]\.(nodes|replicas)\[\d+\]\.IP_ADDRESS$`)
)

// expand replaces ${{ name }} by the value of the variable. References into the namespaces in later are checked and
// left to the server. $$ stands for one $.
func expand(s string, vars map[string]string, later ...string) (string, error) {
	var b strings.Builder
	var missing []string
	for {
		dollar := strings.IndexByte(s, '$')
		if dollar < 0 || dollar == len(s)-1 {
			b.WriteString(s)
			break
		}
		if s[dollar+1] == '$' {
			b.WriteString(s[:dollar+1])
			s = s[dollar+2:]
			continue
		}
		open := strings.Index(s, "${{")
		if open < 0 {
			b.WriteString(s)
			break
		}
		b.WriteString(s[:open])
		length := strings.Index(s[open:], "}}")
		if length < 0 {
			return "", fmt.Errorf("No pattern closing: %s", s[open:])
		}
		ref := s[open : open+length+2]
		s = s[open+length+2:]
		name := strings.TrimSpace(ref[3 : len(ref)-2])
		root := name
		if i := strings.IndexAny(name, ".["); i >= 0 {
			root = name[:i]
		}
		switch {
		case slices.Contains(later, root):
			if !refName.MatchString(name) && !(root == "groups" && groupName.MatchString(name)) {
				return "", fmt.Errorf("Illegal reference name: %s", name)
			}
			b.WriteString(ref)
		case !refName.MatchString(name):
			return "", fmt.Errorf("Illegal reference name: %s", name)
		default:
			v, ok := vars[name]
			if !ok {
				missing = append(missing, "'"+name+"'")
			}
			b.WriteString(v)
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("Failed to interpolate due to missing vars: [%s]", strings.Join(missing, ", "))
	}
	return b.String(), nil
}
