// Package s3 is a bucket of Amazon S3, or of a store that speaks its protocol. Credentials come
// from where AWS programs look for them: environment, shared files, the machine's role.
package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"dstack/internal/awsclient"
	"dstack/internal/object"
)

// Config is what New needs; only Bucket is required.
type Config struct {
	Bucket string
	Region string // optional: what the environment says, else where the bucket is found
	// Endpoint is a store that speaks the protocol, "http://host:port"; optional: what the
	// environment says (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL), else Amazon.
	Endpoint string
	// Credentials are optional: those of the environment.
	Credentials aws.CredentialsProvider
	// Timeout bounds the wait for an answer after a request was sent; optional: 30 s.
	Timeout time.Duration
	// Backoff bounds the wait before what failed is repeated; optional: 2 s.
	Backoff time.Duration
}

// Bucket is an [object.Bucket].
type Bucket struct {
	name   string
	client *s3.Client
	region string // as configured or found
	given  bool   // the region was configured
}

// anyRegion is asked when none is configured: it knows where every bucket is.
const anyRegion = "us-east-1"

// New reads the environment. It calls nobody but, where credentials come from there, the machine;
// awsclient.ErrNoCredentials says that there are none.
func New(ctx context.Context, c Config) (*Bucket, error) {
	cfg, err := awsclient.Load(ctx, awsclient.Config{Region: c.Region, Credentials: c.Credentials, Timeout: c.Timeout})
	if err != nil {
		return nil, err
	}
	b := &Bucket{name: c.Bucket, given: c.Region != "", region: cmp.Or(cfg.Region, anyRegion)}
	b.client = s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.Region = b.region
		if c.Endpoint != "" {
			o.BaseEndpoint = &c.Endpoint
		}
		if o.BaseEndpoint != nil { // other stores are often without names for buckets, and newer checksums
			o.UsePathStyle = true
		}
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = cmp.Or(c.Backoff, 2*time.Second) })
	})
	return b, nil
}

// probe is a key that no object has.
const probe = "dstack-no-such-object"

// Check implements [object.Bucket]. Where no region is configured it goes where the bucket is.
func (b *Bucket) Check(ctx context.Context) error {
	err := b.check(ctx)
	if at := bucketRegion(err); at != "" && at != b.region {
		if b.given {
			return fmt.Errorf("%w: the bucket is in the region %s, not in %s", object.ErrSettings, at, b.region)
		}
		b.region = at
		o := b.client.Options()
		o.Region = at
		b.client = s3.New(o)
		return b.check(ctx)
	}
	return err
}

func (b *Bucket) check(ctx context.Context) error {
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: aws.String(probe)})
	if err == nil {
		return out.Body.Close()
	}
	switch awsclient.Code(err) {
	case "NoSuchKey", "NotFound":
		return nil
	case "AccessDenied", "Forbidden":
		// Who may list a bucket is told that a key is missing, and we must be able to list. Stores
		// that make a secret of it all the same let us look at the bucket.
		_, head := b.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.name})
		if code := awsclient.Code(head); code == "AccessDenied" || code == "Forbidden" {
			return fmt.Errorf("%w: %w", object.ErrSettings, err)
		}
		return head
	case "NoSuchBucket":
		return fmt.Errorf("%w: there is no such bucket", object.ErrSettings)
	case "InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return fmt.Errorf("%w: %w", object.ErrSettings, err)
	}
	if awsclient.Refused(awsclient.Code(err)) {
		return fmt.Errorf("%w: %w", object.ErrSettings, err)
	}
	return err
}

// bucketRegion is where S3 says that a bucket is.
func bucketRegion(err error) string {
	if e, ok := errors.AsType[*awshttp.ResponseError](err); ok && e.Response != nil {
		return e.Response.Header.Get("X-Amz-Bucket-Region")
	}
	return ""
}

func (b *Bucket) wrap(op, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case awsclient.Code(err) == "NoSuchKey" || awsclient.Code(err) == "NotFound":
		err = object.ErrNotFound
	}
	return fmt.Errorf("%s %s in bucket %s: %w", op, key, b.name, err)
}

// Put implements [object.Bucket].
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, size int64) error {
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: body, ContentLength: &size})
	return b.wrap("put", key, err)
}

// Get implements [object.Bucket].
func (b *Bucket) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: &key})
	if err != nil {
		return nil, b.wrap("get", key, err)
	}
	return out.Body, nil
}

// Stat implements [object.Bucket].
func (b *Bucket) Stat(ctx context.Context, key string) (object.Info, error) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: &key})
	if err != nil {
		return object.Info{}, b.wrap("look for", key, err)
	}
	return object.Info{Key: key, Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified)}, nil
}

// Delete implements [object.Bucket].
func (b *Bucket) Delete(ctx context.Context, key string) error {
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: &key})
	if err = b.wrap("delete", key, err); errors.Is(err, object.ErrNotFound) {
		return nil
	}
	return err
}

// List implements [object.Bucket].
func (b *Bucket) List(ctx context.Context, prefix string, fn func(object.Info) error) error {
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("list bucket %s: %w", b.name, err)
		}
		for _, o := range page.Contents {
			if err := fn(object.Info{Key: aws.ToString(o.Key), Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}); err != nil {
				return err
			}
		}
	}
	return nil
}
