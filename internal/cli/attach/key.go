package attach

import (
	"context"
	"crypto/sha1" //nolint:gosec // names a file, as other clients do
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/cli/clientconfig"
)

// keyFresh is how long a downloaded key is used before the server is asked again.
const keyFresh = 10 * time.Minute

// Keys finds the private key that a run was submitted with.
type Keys struct {
	Dir   string // ~/.dstack/ssh
	Token string // of the user, names the files
	// Fetch asks the server for the user's keys.
	Fetch func(ctx context.Context) (private, public string, err error)
	Now   func() time.Time
}

// errNoKey means that the key of the run is not on this machine.
var errNoKey = errors.New("the run was submitted with another SSH key: pass it with --ssh-identity")

// For returns the path of the private key that belongs to the public key of a run.
func (k Keys) For(ctx context.Context, runKey string) (string, error) {
	path, err := k.User(ctx)
	if err != nil {
		return "", err
	}
	if public, err := os.ReadFile(path + ".pub"); err == nil && string(public) == runKey {
		return path, nil
	}
	legacy := filepath.Join(k.Dir, "id_rsa")
	if _, err := os.Stat(legacy); err == nil {
		return legacy, nil
	}
	return "", fmt.Errorf("%w (User SSH key doesn't match; default SSH key (%s) doesn't exist)", errNoKey, legacy)
}

// User returns the path of the user's own key, downloaded if it is missing or old.
func (k Keys) User(ctx context.Context) (string, error) {
	sum := sha1.Sum([]byte(k.Token)) //nolint:gosec // as above
	path := filepath.Join(k.Dir, hex.EncodeToString(sum[:])[:8])
	if k.fresh(path) {
		return path, nil
	}
	private, public, err := k.Fetch(ctx)
	if err != nil {
		return "", err
	}
	if private == "" || public == "" {
		return "", errors.New("Server response does not contain user SSH key")
	}
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return "", fmt.Errorf("store SSH key: %w", err)
	}
	if err := clientconfig.WriteFile(path, []byte(private), 0o600); err != nil {
		return "", err
	}
	return path, clientconfig.WriteFile(path+".pub", []byte(public), 0o600)
}

func (k Keys) fresh(path string) bool {
	info, err := os.Stat(path)
	if err != nil || k.Now().Sub(info.ModTime()) > keyFresh {
		return false
	}
	_, err = os.Stat(path + ".pub")
	return err == nil
}

// readSigner reads a private key without passphrase.
func readSigner(path string) (ssh.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("Unable to read the SSH key at %s", path)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err == nil {
		return signer, nil
	}
	if _, _, _, _, perr := ssh.ParseAuthorizedKey(data); perr == nil {
		return nil, fmt.Errorf("Expected a private key at %s, got a public key", path)
	}
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, fmt.Errorf("Unsupported or invalid SSH key at %s: it has a passphrase, make one without", path)
	}
	return nil, fmt.Errorf("Unsupported or invalid SSH key at %s", path)
}

// PublicKey returns the public key of the private key at path: the text beside it in path.pub, or else derived from it.
func PublicKey(path string) (string, error) {
	signer, err := readSigner(path)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(path + ".pub")
	if err == nil {
		return string(data), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("Unable to read the SSH key at %s.pub", path)
	}
	text := ssh.MarshalAuthorizedKey(signer.PublicKey())
	return string(text[:len(text)-1]), nil
}
