package user

import (
	"context"
	"crypto/md5"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"dstack/internal/api"
	"dstack/internal/event"
	"dstack/internal/store"
)

// keyTypes are the SSH keys that users may add.
var keyTypes = []string{
	ssh.KeyAlgoRSA, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoED25519, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoSKED25519,
}

// Keys lists the SSH keys that the caller added, newest first.
func (s *Service) Keys(ctx context.Context, caller User, _ struct{}) ([]api.PublicKeyInfo, error) {
	keys := []api.PublicKeyInfo{}
	rows, err := s.DB.Read().QueryContext(ctx, `
SELECT id, added_at, name, type, fingerprint FROM public_key WHERE user_id = $1 ORDER BY added_at DESC, id`, caller.ID)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var k api.PublicKeyInfo
		var at int64
		if err := store.DespiteDamage(store.Scan(rows, &k.ID, &at, &k.Name, &k.Type, &k.Fingerprint)); err != nil {
			return err
		}
		k.AddedAt = api.At(store.Time(at))
		keys = append(keys, k)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list public keys: %w", err)
	}
	return keys, nil
}

// PublicKeys are the SSH keys that a user added, in the form of authorized_keys.
func (s *Service) PublicKeys(ctx context.Context, userID string) ([]string, error) {
	var keys []string
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT key FROM public_key WHERE user_id = $1 ORDER BY added_at, id`, userID)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var key string
		err := rows.Scan(&key)
		keys = append(keys, key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list public keys: %w", err)
	}
	return keys, nil
}

// AddKey adds an SSH key to the caller's.
func (s *Service) AddKey(ctx context.Context, caller User, r api.AddPublicKeyRequest) (api.PublicKeyInfo, error) {
	line := strings.TrimSpace(r.Key)
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return api.PublicKeyInfo{}, api.Invalid("Invalid public key, must be in OpenSSH public key format")
	}
	if !slices.Contains(keyTypes, key.Type()) {
		return api.PublicKeyInfo{}, api.Invalid("Unsupported key type: %s", key.Type())
	}
	now := time.Now()
	info := api.PublicKeyInfo{ID: uuid.NewString(), AddedAt: api.At(now), Name: keyName(r.Name, comment, key), Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key)}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, `
INSERT INTO public_key (id, user_id, name, type, key, fingerprint, added_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			info.ID, caller.ID, info.Name, info.Type, line, info.Fingerprint, store.Micros(now))
		if err != nil {
			return err
		}
		return s.record(ctx, tx, caller, caller, "Public key added. Fingerprint: "+info.Fingerprint)
	})
	if store.Constraint(err) == "public_key_user_id_fingerprint_key" {
		return api.PublicKeyInfo{}, api.Exists("")
	}
	if err != nil {
		return api.PublicKeyInfo{}, err
	}
	return info, nil
}

// keyName is what the user chose, else the key's comment, else a digest that other tools
// show too.
func keyName(want *string, comment string, key ssh.PublicKey) string {
	if want != nil && *want != "" {
		return *want
	}
	if comment != "" {
		return comment
	}
	sum := md5.Sum(key.Marshal()) // a name, not a proof
	return hex.EncodeToString(sum[:])
}

// DeleteKeys removes keys of the caller; ids of others are ignored.
func (s *Service) DeleteKeys(ctx context.Context, caller User, r api.DeletePublicKeysRequest) (*struct{}, error) {
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, id := range r.IDs {
			var fingerprint string
			err := tx.QueryRowContext(ctx, `DELETE FROM public_key WHERE id = $1 AND user_id = $2 RETURNING fingerprint`, id, caller.ID).Scan(&fingerprint)
			if err == sql.ErrNoRows {
				continue
			}
			if err != nil {
				return fmt.Errorf("delete a public key: %w", err)
			}
			err = event.Record(ctx, tx, event.Event{Message: "Public key deleted. Fingerprint: " + fingerprint, ActorID: caller.ID, ActorName: caller.Name,
				Targets: []event.Target{{Type: api.EventTargetUser, ID: caller.ID, Name: caller.Name}}})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
