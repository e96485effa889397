package collect

import (
	"errors"
	"fmt"
	"io"
	"os"

	"dstack/internal/nebiusclient"
)

// The variables with credentials of Nebius: an access token, by the name that Nebius' own programs
// know; or the file of a service account that these write; or what that file has, one by one.
const (
	nebiusToken   = "NEBIUS_IAM_TOKEN"
	nebiusFile    = "NEBIUS_CREDENTIALS_FILE"
	nebiusAccount = "NEBIUS_SERVICE_ACCOUNT_ID"
	nebiusKeyID   = "NEBIUS_PUBLIC_KEY_ID"
	nebiusKeyFile = "NEBIUS_PRIVATE_KEY_FILE"
)

// nebiusCredentials takes the first that there are. Errors say nothing of what is in files.
func nebiusCredentials(env func(string) string) (nebiusclient.Credentials, error) {
	if token := env(nebiusToken); token != "" {
		return nebiusclient.Credentials{Token: token}, nil
	}
	if path := env(nebiusFile); path != "" {
		text, err := readSecret(path)
		if err != nil {
			return nebiusclient.Credentials{}, fmt.Errorf("%s: %w", nebiusFile, err)
		}
		c, err := nebiusclient.ParseFile(text)
		if err != nil {
			return c, fmt.Errorf("%s: %s: %w", nebiusFile, path, err)
		}
		return c, nil
	}
	text, err := readSecret(env(nebiusKeyFile))
	if err != nil {
		return nebiusclient.Credentials{}, fmt.Errorf("%s: %w", nebiusKeyFile, err)
	}
	key, err := nebiusclient.ParseKey(text)
	if err != nil {
		return nebiusclient.Credentials{}, fmt.Errorf("%s: %s: %w", nebiusKeyFile, env(nebiusKeyFile), err)
	}
	return nebiusclient.Credentials{ServiceAccount: env(nebiusAccount), PublicKey: env(nebiusKeyID), Key: key}, nil
}

// maxSecret bounds a file with a key, in bytes.
const maxSecret = 64 << 10

func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if len(text) > maxSecret {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxSecret)
	}
	return text, errors.Join(err, f.Close())
}
