package blobstore_test

import (
	"testing"

	"dstack/internal/blobstore"
	"dstack/internal/blobstore/blobstoretest"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func TestFile(t *testing.T) {
	blobstoretest.Run(t, func(t *testing.T) blobstore.Store {
		return blobstore.NewFile(t.TempDir(), blobstoretest.Limit)
	})
}

func TestDB(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		blobstoretest.Run(t, func(t *testing.T) blobstore.Store {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.ExecContext(t.Context(), `DELETE FROM blob`)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return blobstore.NewDB(db, blobstoretest.Limit)
		})
	})
}
