package attach

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestKeys(t *testing.T) {
	now := time.Now()
	calls := 0
	k := Keys{
		Dir: filepath.Join(t.TempDir(), "ssh"), Token: "token", Now: func() time.Time { return now },
		Fetch: func(context.Context) (string, string, error) { calls++; return "PRIVATE", "ssh-rsa AAAA user\n", nil },
	}
	for range 2 {
		path, err := k.For(t.Context(), "ssh-rsa AAAA user\n")
		if err != nil {
			t.Fatal(err)
		}
		if got := filepath.Base(path); got != "ee977806" {
			t.Errorf("file = %q, want the first digits of the token's SHA-1", got)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of %s = %v, %v, want 0600", path, info.Mode(), err)
		}
	}
	if calls != 1 {
		t.Errorf("%d downloads of a fresh key, want 1", calls)
	}
	now = now.Add(keyFresh + time.Minute)
	if _, err := k.For(t.Context(), "another"); !errors.Is(err, errNoKey) {
		t.Errorf("For(another key) = %v, want errNoKey", err)
	}
	if calls != 2 {
		t.Errorf("%d downloads after the key got old, want 2", calls)
	}
}

func TestReadSigner(t *testing.T) {
	dir := t.TempDir()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"good":    {pem.EncodeToMemory(block), ""},
		"public":  {ssh.MarshalAuthorizedKey(pub), "Expected a private key at"},
		"locked":  {pem.EncodeToMemory(locked), "passphrase"},
		"nothing": {[]byte("hello"), "Unsupported or invalid SSH key at"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, tt.data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readSigner(path)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("readSigner(%s) = %v, want %q", name, err, tt.want)
		}
	}
	if got, err := PublicKey(filepath.Join(dir, "good")); err != nil || !strings.HasPrefix(got, "ssh-ed25519 ") {
		t.Errorf("PublicKey = %q, %v", got, err)
	}
}
