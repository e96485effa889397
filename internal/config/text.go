package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// JoinCommands makes one shell line of commands (host-agents 3).
func JoinCommands(commands []string) string {
	parts := make([]string, len(commands))
	for i, c := range commands {
		c = strings.TrimSpace(c)
		if strings.HasSuffix(c, "&") {
			c = "{ " + c + " }"
		}
		parts[i] = c
	}
	return strings.Join(parts, " && ")
}

// ShellSplit splits a line into words as a POSIX shell does, without expanding anything.
func ShellSplit(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	in := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		case c == '\'':
			end := strings.IndexByte(s[i+1:], '\'')
			if end < 0 {
				return nil, errors.New("No closing quotation")
			}
			word.WriteString(s[i+1 : i+1+end])
			i, in = i+1+end, true
		case c == '"':
			end, err := doubleQuoted(s, i+1, &word)
			if err != nil {
				return nil, err
			}
			i, in = end, true
		case c == '\\':
			if i+1 == len(s) {
				return nil, errors.New("No escaped character")
			}
			i++
			word.WriteByte(s[i])
			in = true
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

// doubleQuoted reads up to the closing quote and returns its index.
func doubleQuoted(s string, i int, word *strings.Builder) (int, error) {
	for ; i < len(s); i++ {
		switch s[i] {
		case '"':
			return i, nil
		case '\\':
			if i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\') {
				i++
			}
			word.WriteByte(s[i])
		default:
			word.WriteByte(s[i])
		}
	}
	return 0, errors.New("No closing quotation")
}

// ShellJoin quotes words for a POSIX shell.
func ShellJoin(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = ShellQuote(w)
	}
	return strings.Join(quoted, " ")
}

// ShellQuote quotes one word when it needs it.
func ShellQuote(w string) string {
	if w == "" {
		return "''"
	}
	safe := strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_") == ""
	if safe {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'"'"'`) + "'"
}

// Interpolate replaces ${{ namespace.name }} (configurations 3). Namespaces that are
// deferred stay as they are written.
func Interpolate(s string, values map[string]map[string]string, deferred ...string) (string, error) {
	var out strings.Builder
	var missing []string
	pos := 0
	for {
		dollar := strings.IndexByte(s[pos:], '$')
		if dollar < 0 || pos+dollar == len(s)-1 {
			out.WriteString(s[pos:])
			break
		}
		dollar += pos
		if s[dollar+1] == '$' {
			out.WriteString(s[pos : dollar+1])
			pos = dollar + 2
			continue
		}
		open := strings.Index(s[pos:], "${{")
		if open < 0 {
			out.WriteString(s[pos:])
			break
		}
		open += pos
		out.WriteString(s[pos:open])
		end := strings.Index(s[open:], "}}")
		if end < 0 {
			return "", fmt.Errorf("No pattern closing: %s", s[open:])
		}
		end += open
		name := strings.TrimSpace(s[open+3 : end])
		pos = end + 2
		text, ok, err := reference(name, s[open:pos], values, deferred)
		if err != nil {
			return "", err
		}
		if !ok {
			missing = append(missing, "'"+name+"'")
		}
		out.WriteString(text)
	}
	if missing != nil {
		return "", fmt.Errorf("Failed to interpolate due to missing vars: [%s]", strings.Join(missing, ", "))
	}
	return out.String(), nil
}

func reference(name, verbatim string, values map[string]map[string]string, deferred []string) (string, bool, error) {
	root := name
	if i := strings.IndexAny(name, ".["); i >= 0 {
		root = name[:i]
	}
	for _, d := range deferred {
		if d == root {
			if !validReference(name) && !(root == "groups" && groupReference().MatchString(name)) {
				return "", false, fmt.Errorf("Illegal reference name: %s", name)
			}
			return verbatim, true, nil
		}
	}
	if !validReference(name) {
		return "", false, fmt.Errorf("Illegal reference name: %s", name)
	}
	space, key, _ := strings.Cut(name, ".")
	v, ok := values[space][key]
	return v, ok, nil
}

// groupReference is the address of a node or replica, known once it runs.
var groupReference = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^groups\[\d+\]\.(nodes|replicas)\[\d+\]\.IP_ADDRESS$`)
})

// validReference accepts namespace.name of letters, digits and underscores, and every name
// that a secret may have.
func validReference(s string) bool {
	a, b, ok := strings.Cut(s, ".")
	if ok && a == "secrets" {
		return b != "" && strings.Trim(b, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
	}
	return ok && identifier(a) && identifier(b)
}

func identifier(s string) bool {
	return s != "" && (isLetter(s[0]) || s[0] == '_') &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}
