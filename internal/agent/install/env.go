package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dstack/internal/agentapi"
)

func envPath(home string) string { return filepath.Join(home, "agent.env") }

// environment is what the agent gets: the variables on stdin, or those that it has.
func environment(o options, stdin io.Reader) (map[string]string, error) {
	if !o.newEnv {
		data, err := os.ReadFile(envPath(o.home))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return parseEnv(string(data))
	}
	env := map[string]string{}
	if err := json.NewDecoder(io.LimitReader(stdin, agentapi.MaxBody)).Decode(&env); err != nil {
		return nil, fmt.Errorf("read the variables: %w", err)
	}
	for k, v := range env {
		if k == "" || strings.ContainsAny(k, "= \t\r\n\x00\"'#;") || strings.ContainsRune(v, 0) {
			return nil, fmt.Errorf("not a variable: %q", k)
		}
	}
	return env, nil
}

// The characters that a backslash protects between double quotes in a file that systemd
// reads; newlines stand for themselves there.
const protected = "\"\\`$"

// formatEnv writes variables as an EnvironmentFile of systemd.
func formatEnv(env map[string]string) string {
	var b strings.Builder
	for _, k := range sorted(env) {
		b.WriteString(k + `="`)
		for _, c := range []byte(env[k]) {
			if strings.IndexByte(protected, c) >= 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
		b.WriteString("\"\n")
	}
	return b.String()
}

// parseEnv reads what formatEnv has written.
func parseEnv(text string) (map[string]string, error) {
	env := map[string]string{}
	for text != "" {
		key, rest, ok := strings.Cut(text, `="`)
		if !ok {
			return nil, errors.New("read the variables: the file is damaged")
		}
		var value []byte
		i := 0
		for ; i < len(rest) && rest[i] != '"'; i++ {
			if rest[i] == '\\' && i+1 < len(rest) {
				i++
			}
			value = append(value, rest[i])
		}
		if !strings.HasPrefix(rest[min(i, len(rest)):], "\"\n") {
			return nil, errors.New("read the variables: the file is damaged")
		}
		env[key], text = string(value), rest[i+2:]
	}
	return env, nil
}

func sorted(env map[string]string) []string {
	keys := make([]string, 0, len(env))
	for k := range env {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
