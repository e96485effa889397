package nebiusclient

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"dstack/internal/jwt"
)

// Credentials are a service account's, or an access token that somebody else renews.
type Credentials struct {
	ServiceAccount string // its id
	PublicKey      string // the id of the key's public part at Nebius
	Key            *rsa.PrivateKey

	Token string // instead of all those
}

// String hides what is secret.
func (c Credentials) String() string {
	if c.Token != "" {
		return "an access token"
	}
	return "service account " + c.ServiceAccount
}

// LogValue implements slog.LogValuer.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

func (c Credentials) check() error {
	switch {
	case c.Token != "" && !isToken(c.Token):
		return errors.New("the access token has characters that none has")
	case c.Token == "" && (c.ServiceAccount == "" || c.PublicKey == "" || c.Key == nil):
		return errors.New("there is no access token, and a service account needs its id, its key and the key's id")
	}
	return nil
}

// maxToken bounds an access token, in bytes.
const maxToken = 16 << 10

// isToken says that a text can be sent as a token.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return s != "" && len(s) <= maxToken
}

// ParseKey reads an RSA key in PEM, PKCS#1 or PKCS#8. Errors say nothing of what is in it.
func ParseKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not a private key in PEM")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("it is not a private key in PKCS#1 or PKCS#8")
	}
	if key, ok := key.(*rsa.PrivateKey); ok {
		return key, nil
	}
	return nil, errors.New("it is not a private key for RSA")
}

// ParseFile reads the credentials file of a service account that Nebius' own programs write. Errors
// say nothing of the key that is in it.
func ParseFile(text []byte) (Credentials, error) {
	var file struct {
		Subject struct {
			Type, Alg, Kid, Iss, Sub string
			Key                      string `json:"private-key"`
		} `json:"subject-credentials"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return Credentials{}, errors.New("it is not a credentials file in JSON")
	}
	s := file.Subject
	switch {
	case s.Type != "" && s.Type != "JWT":
		return Credentials{}, fmt.Errorf("subject-credentials.type: %.40q is not JWT", s.Type)
	case s.Alg != "RS256":
		return Credentials{}, fmt.Errorf("subject-credentials.alg: %.40q is not RS256", s.Alg)
	case s.Iss != s.Sub:
		return Credentials{}, fmt.Errorf("subject-credentials: iss %.60q is not sub %.60q", s.Iss, s.Sub)
	case s.Sub == "" || s.Kid == "":
		return Credentials{}, errors.New("subject-credentials: sub and kid are required")
	}
	key, err := ParseKey([]byte(s.Key))
	if err != nil {
		return Credentials{}, fmt.Errorf("subject-credentials.private-key: %w", err)
	}
	return Credentials{ServiceAccount: s.Sub, PublicKey: s.Kid, Key: key}, nil
}

const (
	// audience is what the vendor's own programs name; its documentation does not.
	audience = "token-service.iam.new.nebiuscloud.net"
	// assertionFor is how long an assertion is good for.
	assertionFor = time.Minute
)

// assertion is a signed statement of who asks (RFC 7519), to get an access token for.
func (c Credentials) assertion(now time.Time) (string, error) {
	text, err := jwt.RS256(c.Key, c.PublicKey, map[string]any{
		"iss": c.ServiceAccount, "sub": c.ServiceAccount, "aud": audience, "iat": now.Unix(), "exp": now.Add(assertionFor).Unix(),
	})
	if err != nil {
		return "", fmt.Errorf("ask for service account %s: %w", c.ServiceAccount, err)
	}
	return text, nil
}
