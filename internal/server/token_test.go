package server

import (
	"log/slog"
	"testing"
)

// TestTokenOfNoUse starts servers with tokens that no client could send.
func TestTokenOfNoUse(t *testing.T) {
	for _, token := range []string{"two words", "\n", "é"} {
		if s, err := New(t.Context(), Config{Dir: t.TempDir(), NoFile: true, Token: token, Log: slog.New(slog.DiscardHandler)}); err == nil {
			s.shut(t)
			t.Errorf("started with %q", token)
		}
	}
}
