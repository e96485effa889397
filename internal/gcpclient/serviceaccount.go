package gcpclient

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"dstack/internal/jwt"
)

// A ServiceAccount signs with the key that was made for it.
type ServiceAccount struct {
	Email string
	keyID string
	key   *rsa.PrivateKey
}

// assertionLife is how long an assertion counts, the longest that Google takes.
const assertionLife = time.Hour

// ErrNotServiceAccount says that credentials are of another kind, such as those of a user.
var ErrNotServiceAccount = errors.New("it is not the key of a service account")

// ParseServiceAccount reads the file of a key, as Google's console writes it. Its errors tell nothing of
// the key.
func ParseServiceAccount(file []byte) (ServiceAccount, error) {
	var said struct {
		Type  string
		Email string `json:"client_email"`
		KeyID string `json:"private_key_id"`
		Key   string `json:"private_key"`
	}
	if json.Unmarshal(file, &said) != nil {
		return ServiceAccount{}, errors.New("it is not JSON")
	}
	if said.Type != "service_account" || said.Email == "" {
		return ServiceAccount{}, ErrNotServiceAccount
	}
	block, _ := pem.Decode([]byte(said.Key))
	if block == nil {
		return ServiceAccount{}, errors.New("its private_key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	rsaKey, ok := key.(*rsa.PrivateKey)
	if err != nil || !ok {
		return ServiceAccount{}, errors.New("its private_key is not of RSA")
	}
	return ServiceAccount{said.Email, said.KeyID, rsaKey}, nil
}

// Assertion is a text with which audience, the address that gives tokens, lets the account in from now on,
// to do what scope allows (RFC 7523).
func (a ServiceAccount) Assertion(scope, audience string, now time.Time) (string, error) {
	text, err := jwt.RS256(a.key, a.keyID, map[string]any{
		"iss": a.Email, "scope": scope, "aud": audience, "iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if err != nil {
		return "", fmt.Errorf("ask for %s: %w", a.Email, err)
	}
	return text, nil
}
