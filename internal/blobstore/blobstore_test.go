package blobstore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"golang.org/x/oauth2"

	"dstack/internal/blobstore"
	"dstack/internal/blobstore/blobstoretest"
	"dstack/internal/gcpclient"
	"dstack/internal/object/gcs"
	"dstack/internal/object/gcs/gcstest"
	"dstack/internal/object/s3"
	"dstack/internal/object/s3/s3test"
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

func TestS3(t *testing.T) {
	blobstoretest.Run(t, func(t *testing.T) blobstore.Store {
		srv := s3test.New(t)
		b, err := s3.New(t.Context(), s3.Config{Bucket: s3test.Name, Region: s3test.Region, Endpoint: srv.URL,
			Credentials: credentials.NewStaticCredentialsProvider(s3test.AccessKey, s3test.SecretKey, "")})
		if err != nil {
			t.Fatal(err)
		}
		return blobstore.NewBucket(b, "dstack/blobs/", blobstoretest.Limit)
	})
}

func TestGCS(t *testing.T) {
	blobstoretest.Run(t, func(t *testing.T) blobstore.Store {
		b, err := gcs.New(t.Context(), gcs.Config{Bucket: gcstest.Name, Config: gcpclient.Config{
			Endpoint: gcstest.New(t).URL, Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: gcstest.Token})}})
		if err != nil {
			t.Fatal(err)
		}
		return blobstore.NewBucket(b, "dstack/blobs/", blobstoretest.Limit)
	})
}

// A bucket that does not answer is told from one without the blob.
func TestUnavailable(t *testing.T) {
	bucket, err := s3.New(t.Context(), s3.Config{Bucket: s3test.Name, Region: s3test.Region, Endpoint: "http://127.0.0.1:1", Backoff: time.Millisecond,
		Credentials: credentials.NewStaticCredentialsProvider(s3test.AccessKey, s3test.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	s := blobstore.NewBucket(bucket, "dstack/blobs/", blobstoretest.Limit)
	sum := strings.Repeat("0", 64)
	_, put := s.Put(t.Context(), strings.NewReader("x"))
	_, stat := s.Stat(t.Context(), sum)
	_, open := s.Open(t.Context(), sum)
	for what, err := range map[string]error{"Put": put, "Stat": stat, "Open": open} {
		if _, ok := errors.AsType[*blobstore.UnavailableError](err); !ok || errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("%s = %v", what, err)
		}
	}
}
