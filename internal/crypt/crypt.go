// Package crypt seals what must not lie in the database in the clear: AES-256-GCM with
// keys from the server's configuration, in the text form of configurations 13.1.
package crypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Key is one key of the configuration; Secret is 32 bytes. The zero Key is "identity": it
// leaves text as it is.
type Key struct {
	Name   string
	Secret []byte
}

// Box seals with its first key and opens with any. It is safe for concurrent use.
type Box struct {
	name  string // of the key that seals, "" for identity
	aeads []cipher.AEAD
	plain bool // identity seals
}

// ErrSealed says that no key opens a text.
var ErrSealed = errors.New("crypt: no key of the configuration decrypts this value")

// New makes a Box. Without keys, or with identity as the first one, it stores text as it
// is; what was stored so can always be opened.
func New(keys []Key) (*Box, error) {
	b := &Box{plain: len(keys) == 0}
	for i, k := range keys {
		if k.Name == "" && k.Secret == nil {
			b.plain = b.plain || i == 0
			continue
		}
		if len(k.Secret) != 32 {
			return nil, fmt.Errorf("AES key must be 32 bytes. Got %d bytes", len(k.Secret))
		}
		block, err := aes.NewCipher(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.Name, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.Name, err)
		}
		if i == 0 {
			b.name = k.Name
		}
		b.aeads = append(b.aeads, aead)
	}
	return b, nil
}

// NewSecret makes the secret of a key, base64.
func NewSecret() string {
	secret := make([]byte, 32)
	rand.Read(secret) //nolint:errcheck // never fails
	return base64.StdEncoding.EncodeToString(secret)
}

// Seal encrypts.
func (b *Box) Seal(plain string) (string, error) {
	if b.plain {
		return "enc:identity:noname:" + plain, nil
	}
	nonce := make([]byte, b.aeads[0].NonceSize(), 64+len(plain))
	rand.Read(nonce) //nolint:errcheck // never fails
	sealed := b.aeads[0].Seal(nonce, nonce, []byte(plain), nil)
	return "enc:aes:" + b.name + ":" + base64.StdEncoding.EncodeToString(sealed), nil
}

// Open decrypts; ErrSealed when no key fits.
func (b *Box) Open(sealed string) (string, error) {
	parts := strings.SplitN(sealed, ":", 4)
	if len(parts) != 4 || parts[0] != "enc" {
		return "", ErrSealed
	}
	if parts[1] == "identity" {
		return parts[3], nil
	}
	data, err := base64.StdEncoding.DecodeString(parts[3])
	if err != nil {
		return "", ErrSealed
	}
	for _, aead := range b.aeads {
		if len(data) < aead.NonceSize() {
			break
		}
		if plain, err := aead.Open(nil, data[:aead.NonceSize()], data[aead.NonceSize():], nil); err == nil {
			return string(plain), nil
		}
	}
	return "", ErrSealed
}
