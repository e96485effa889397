package lambda

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"dstack/internal/backend"
)

// keyPrefix begins the names of the keys that a server adds.
func keyPrefix(serverID string) string { return "dstack-" + serverID + "-" }

// keyName is at most 64 characters, since a server's id is a UUID.
func keyName(serverID, public string) string {
	sum := sha1.Sum([]byte(public))
	return keyPrefix(serverID) + hex.EncodeToString(sum[12:])
}

// ensureKey makes sure that the account has the first key of the request, the project's,
// and returns its name as a launch wants it. The others are in the user data.
func (l *lambda) ensureKey(ctx context.Context, req backend.CreateRequest) ([]string, error) {
	public := strings.TrimSpace(req.SSHKeys[0])
	if names, err := l.known(ctx, public); err != nil || names != nil {
		return names, err
	}
	name := keyName(req.Tags[backend.TagServer], public)
	err := l.api.addKey(ctx, name, public)
	if _, refused := errors.AsType[*backend.InvalidError](err); refused { // another server of this database may have been faster
		if names, failed := l.known(ctx, public); failed != nil || names != nil {
			return names, failed
		}
	}
	return []string{name}, err
}

// known finds a key in the account, nil when it is not there. It may be one that somebody else added:
// accounts need no second.
func (l *lambda) known(ctx context.Context, public string) ([]string, error) {
	keys, err := l.api.keys(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.Name != "" && sameKey(k.Public, public) {
			return []string{k.Name}, nil
		}
	}
	return nil, nil
}

// sameKey compares public keys without their comments.
func sameKey(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	return len(x) > 1 && len(y) > 1 && x[0] == y[0] && x[1] == y[1]
}

// Tidy implements backend.TidyBackend: it deletes the keys of this server that no instance
// of the account was launched with.
func (l *lambda) Tidy(ctx context.Context, serverID string) error {
	if serverID == "" {
		return nil
	}
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock()
	keys, err := l.api.keys(ctx)
	if err != nil {
		return err
	}
	keys = slices.DeleteFunc(keys, func(k sshKey) bool { return !strings.HasPrefix(k.Name, keyPrefix(serverID)) })
	if len(keys) == 0 {
		return nil
	}
	all, err := l.api.instances(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, k := range keys {
		used := func(i instance) bool { return slices.Contains(i.Keys, k.Name) || i.fields.Lacks("ssh_key_names") }
		if k.ID == "" || slices.ContainsFunc(all, used) {
			continue
		}
		err := l.api.deleteKey(ctx, k.ID)
		if e, ok := errors.AsType[*apiError](err); ok && e.Status == http.StatusNotFound {
			err = nil // another server of this database was faster
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("delete SSH key %s: %w", k.Name, err))
		}
	}
	return errors.Join(failed...)
}
