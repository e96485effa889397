// Package jwt signs statements with which service accounts ask for access tokens.
package jwt

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// RS256 is a JSON Web Token (RFC 7519) with some claims, signed with RSA and SHA-256; keyID says with
// which key of its owner.
func RS256(key *rsa.PrivateKey, keyID string, claims map[string]any) (string, error) {
	head, headErr := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": keyID})
	body, bodyErr := json.Marshal(claims)
	if err := errors.Join(headErr, bodyErr); err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign with RSA: %w", err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
