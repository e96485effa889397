package gcpclient

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

// Keys are read in both forms, and no error shows any of one.
func TestParseServiceAccount(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	eight, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := func(kind, email string, block *pem.Block) []byte {
		text, err := json.Marshal(map[string]string{"type": kind, "client_email": email, "private_key": string(pem.EncodeToMemory(block))})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	const kind, email = "service_account", "robot@acme.example"
	good := &pem.Block{Type: "PRIVATE KEY", Bytes: eight}
	for name, tt := range map[string]struct {
		file []byte
		want string // the error
	}{
		"as Google writes it": {file(kind, email, good), ""},
		"the former form":     {file(kind, email, &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), ""},
		"cut off":             {file(kind, email, good)[:500], "it is not JSON"},
		"of a user":           {file("authorized_user", email, good), "it is not the key of a service account"},
		"of nobody":           {file(kind, "", good), "it is not the key of a service account"},
		"half a key":          {file(kind, email, &pem.Block{Type: "PRIVATE KEY", Bytes: eight[:200]}), "its private_key is not of RSA"},
		"no PEM":              {[]byte(`{"type": "service_account", "client_email": "a", "private_key": "MIIE"}`), "its private_key is not PEM"},
	} {
		a, err := ParseServiceAccount(tt.file)
		if (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if err != nil {
			continue
		}
		text, err := a.Assertion("scope", "https://login.example/token", time.Unix(1_800_000_000, 0))
		if err != nil || a.Email != email || strings.Count(text, ".") != 2 {
			t.Errorf("%s: %q of %s, %v", name, text, a.Email, err)
		}
	}
}
