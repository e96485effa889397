// Package sshkey makes and reads SSH keys in the forms that the wire and OpenSSH use.
package sshkey

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Pair is a key pair: Public is a line of authorized_keys, Private is PEM.
type Pair struct{ Public, Private string }

// Generate makes an Ed25519 pair; the public line ends with the comment and a newline,
// as published clients expect.
func Generate(comment string) (Pair, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("generate an SSH key: %w", err)
	}
	return pair(pub, priv, comment)
}

// Derive makes the Ed25519 pair of a seed: the same one for the same seed.
func Derive(seed [ed25519.SeedSize]byte, comment string) (Pair, error) {
	priv := ed25519.NewKeyFromSeed(seed[:])
	return pair(priv.Public(), priv, comment)
}

func pair(pub, priv any, comment string) (Pair, error) {
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return Pair{}, fmt.Errorf("write an SSH key: %w", err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return Pair{}, fmt.Errorf("write an SSH key: %w", err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if comment != "" {
		line += " " + comment
	}
	return Pair{Public: line + "\n", Private: string(pem.EncodeToMemory(block))}, nil
}

// ErrUnsupported is the refusal of keys that cannot be used (host-agents 9.1).
var ErrUnsupported = errors.New("Unsupported key type. The key type should be RSA, ECDSA, or Ed25519 and should not be encrypted with passphrase.")

// Signer reads a private key.
func Signer(private string) (ssh.Signer, error) {
	s, err := ssh.ParsePrivateKey([]byte(private))
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrUnsupported, err)
	}
	switch s.PublicKey().Type() {
	case ssh.KeyAlgoRSA, ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return s, nil
	}
	return nil, ErrUnsupported
}

// ParsePublic reads a line of authorized_keys.
func ParsePublic(line string) (key ssh.PublicKey, comment string, err error) {
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(line)))
	if err != nil || len(options) > 0 || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, "", errors.New("Invalid public key")
	}
	return key, comment, nil
}

// Fingerprint is SHA256:… as OpenSSH prints it.
func Fingerprint(key ssh.PublicKey) string { return ssh.FingerprintSHA256(key) }

// Line is the key as a line of authorized_keys, without comment.
func Line(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}
