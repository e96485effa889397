package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"dstack/internal/awsclient"
	"dstack/internal/blobstore"
	"dstack/internal/gcpclient"
	"dstack/internal/logstore"
	"dstack/internal/logstore/bucketlog"
	"dstack/internal/logstore/cloudwatch"
	"dstack/internal/logstore/fluent"
	"dstack/internal/logstore/gcplog"
	"dstack/internal/object"
	"dstack/internal/object/gcs"
	"dstack/internal/object/s3"
	"dstack/internal/store"
)

// The variables that select storages.
const (
	varS3Bucket        = "DSTACK_SERVER_S3_BUCKET"
	varS3Region        = "DSTACK_SERVER_S3_BUCKET_REGION"
	varOldBucket       = "DSTACK_SERVER_BUCKET" // what the two above were called once
	varOldRegion       = "DSTACK_SERVER_BUCKET_REGION"
	varGCSBucket       = "DSTACK_SERVER_GCS_BUCKET"
	varLogGroup        = "DSTACK_SERVER_CLOUDWATCH_LOG_GROUP"
	varLogRegion       = "DSTACK_SERVER_CLOUDWATCH_LOG_REGION"
	varLoggingProject  = "DSTACK_SERVER_GCP_LOGGING_PROJECT"
	varFluentHost      = "DSTACK_SERVER_FLUENTBIT_HOST"
	varFluentPort      = "DSTACK_SERVER_FLUENTBIT_PORT"
	varFluentProtocol  = "DSTACK_SERVER_FLUENTBIT_PROTOCOL"
	varFluentTagPrefix = "DSTACK_SERVER_FLUENTBIT_TAG_PREFIX"
	varSearchHost      = "DSTACK_SERVER_ELASTICSEARCH_HOST"
	varSearchIndex     = "DSTACK_SERVER_ELASTICSEARCH_INDEX"
	varSearchKey       = "DSTACK_SERVER_ELASTICSEARCH_API_KEY"
	varS3LogBucket     = "DSTACK_SERVER_S3_LOG_BUCKET"
	varS3LogRegion     = "DSTACK_SERVER_S3_LOG_BUCKET_REGION"
	varGCSLogBucket    = "DSTACK_SERVER_GCS_LOG_BUCKET"
	varGCSEndpoint     = "DSTACK_ENDPOINT_GCS"
	varLoggingEndpoint = "DSTACK_ENDPOINT_GCP_LOGGING"
)

// A place is a storage that settings name: the variable that does, its value, and a region.
type place struct{ Variable, Name, Region string }

// Storage says where uploads and logs are kept. Its zero value is the server's own folder, or its
// PostgreSQL.
type Storage struct {
	Blobs place
	Logs  place
	// Fluent is how Fluent Bit is spoken to, if Logs is one.
	Fluent fluent.Config
	// GCSEndpoint and LoggingEndpoint are where Google's APIs are instead, "": at Google.
	GCSEndpoint, LoggingEndpoint string
}

// storage reads what the environment says about storages, and all that is wrong with it.
func storage(env func(string) string) (s Storage, errs []error) {
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	s3Var, s3Region := varS3Bucket, env(varS3Region)
	if env(varS3Bucket) == "" && env(varOldBucket) != "" {
		s3Var, s3Region = varOldBucket, env(varOldRegion)
	}
	switch bucket := env(s3Var); {
	case bucket != "" && env(varGCSBucket) != "":
		wrong("%s and %s are both set: uploads have one place", s3Var, varGCSBucket)
	case bucket != "":
		s.Blobs = place{s3Var, bucket, s3Region}
	case env(varGCSBucket) != "":
		s.Blobs = place{varGCSBucket, env(varGCSBucket), ""}
	}
	for _, name := range []string{varLogGroup, varLoggingProject, varFluentHost, varS3LogBucket, varGCSLogBucket} {
		if v := env(name); v != "" && s.Logs.Name == "" { // the first one wins, as it always did
			s.Logs = place{Variable: name, Name: v}
		}
	}
	switch s.Logs.Variable {
	case varLogGroup:
		s.Logs.Region = env(varLogRegion)
	case varS3LogBucket:
		s.Logs.Region = env(varS3LogRegion)
	case varFluentHost:
		var wrongs []error
		s.Fluent, wrongs = fluentBit(env)
		errs = append(errs, wrongs...)
	}
	for _, need := range [][2]string{
		{varS3Region, varS3Bucket}, {varOldRegion, varOldBucket}, {varLogRegion, varLogGroup}, {varS3LogRegion, varS3LogBucket},
		{varFluentPort, varFluentHost}, {varFluentProtocol, varFluentHost}, {varFluentTagPrefix, varFluentHost},
		{varSearchHost, varFluentHost}, {varSearchIndex, varSearchHost}, {varSearchKey, varSearchHost},
	} {
		if env(need[0]) != "" && env(need[1]) == "" {
			wrong("%s is of no use without %s: set both or neither", need[0], need[1])
		}
	}
	s.GCSEndpoint, s.LoggingEndpoint = strings.TrimRight(env(varGCSEndpoint), "/"), strings.TrimRight(env(varLoggingEndpoint), "/")
	return s, append(errs, checkForms(env, storageForms)...)
}

func fluentBit(env func(string) string) (c fluent.Config, errs []error) {
	c = fluent.Config{Host: env(varFluentHost), Protocol: fluent.Protocol(env(varFluentProtocol)), TagPrefix: env(varFluentTagPrefix)}
	if p := env(varFluentPort); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			errs = append(errs, fmt.Errorf("%s=%s: write a port, 1 to 65535", varFluentPort, p))
		}
		c.Port = int(n)
	}
	if p := c.Protocol; p != "" && p != fluent.Forward && p != fluent.HTTP {
		errs = append(errs, fmt.Errorf("%s=%s: write forward or http", varFluentProtocol, p))
	}
	if host := env(varSearchHost); host != "" {
		c.Search = &fluent.Search{URL: host, Index: env(varSearchIndex), APIKey: env(varSearchKey)}
	}
	return c, errs
}

// storageTimeout bounds the look at a storage at the start.
const storageTimeout = 20 * time.Second

// openStorage opens what the settings name. What they say wrongly stops the start; a storage that
// does not answer just now does not.
func (s *Server) openStorage(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	if p := s.Storage.Blobs; p.Name != "" {
		if s.bucket, err = s.openBucket(ctx, p); err == nil {
			err = s.bucket.Check(ctx)
		}
		if err = s.judge(p, err); err != nil {
			return err
		}
	}
	if p := s.Storage.Logs; p.Name != "" {
		if s.sink, err = s.openSink(ctx, p); err == nil {
			err = s.sink.Check(ctx)
		}
		if err = s.judge(p, err); err != nil {
			return err
		}
		if p.Variable == varFluentHost && s.Storage.Fluent.Search == nil {
			s.Log.Warn("logs go to Fluent Bit and cannot be read back: dstack logs shows only what is new", "set", varSearchHost)
		}
	}
	return nil
}

// judge names the variable in what is wrong for good, and reports the rest.
func (s *Server) judge(p place, err error) error {
	search, isSearch := errors.AsType[*fluent.SearchError](err)
	switch {
	case err == nil:
		return nil
	case isSearch && search.Denied:
		return fmt.Errorf("%s: %w: look at %s", varSearchHost, search, varSearchKey)
	case isSearch:
		return fmt.Errorf("%s: %w", varSearchHost, search)
	case errors.Is(err, cloudwatch.ErrNoRegion):
		return fmt.Errorf("%s=%s: the region is not known: set %s", p.Variable, p.Name, varLogRegion)
	case errors.Is(err, awsclient.ErrNoCredentials), errors.Is(err, gcpclient.ErrNoCredentials),
		errors.Is(err, logstore.ErrSettings):
		return fmt.Errorf("%s=%s: %w", p.Variable, p.Name, err)
	}
	s.Log.Warn("a storage does not answer", "setting", p.Variable, "value", p.Name, "err", err)
	return nil
}

func (s *Server) openBucket(ctx context.Context, p place) (object.Bucket, error) {
	switch p.Variable {
	case varGCSBucket, varGCSLogBucket:
		return gcs.New(ctx, gcs.Config{Bucket: p.Name, Config: gcpclient.Config{Endpoint: s.Storage.GCSEndpoint}})
	default:
		return s3.New(ctx, s3.Config{Bucket: p.Name, Region: p.Region})
	}
}

// logPrefix is where logs are in a bucket: job ids are unique, so that servers may share one.
const logPrefix = "dstack/logs/"

func (s *Server) openSink(ctx context.Context, p place) (logstore.Sink, error) {
	switch p.Variable {
	case varLogGroup:
		return cloudwatch.New(ctx, cloudwatch.Config{Group: p.Name, Region: p.Region})
	case varLoggingProject:
		return gcplog.New(ctx, gcplog.Config{Project: p.Name, Config: gcpclient.Config{Endpoint: s.Storage.LoggingEndpoint}})
	case varFluentHost:
		return fluent.New(s.Storage.Fluent)
	}
	b, err := s.openBucket(ctx, p)
	if err != nil {
		return nil, err
	}
	return bucketlog.New("bucket "+p.Name, b, logPrefix), nil
}

// logStore is the service that the settings name, behind the database; else the database where
// replicas share one, else files.
func (s *Server) logStore() (logstore.Store, error) {
	switch {
	case s.sink != nil:
		r, err := logstore.NewRemote(logstore.RemoteConfig{
			DB: s.db, Sink: s.sink, Place: placeOf, Log: s.Log,
			Wake: func(jobID string) { s.engine.Wake(logstore.Kind, jobID) },
		})
		if err == nil {
			s.engine.Register(r.Kind())
		}
		return r, err
	case s.db.Engine() == store.Postgres:
		return logstore.NewDB(s.db), nil
	}
	return logstore.NewFile(filepath.Join(s.Dir, "logs")), nil
}

// placeOf says which run of which project a job belongs to.
func placeOf(ctx context.Context, q store.Querier, jobID string) (project, run string, err error) {
	err = q.QueryRowContext(ctx, `
SELECT project.name, run.name
FROM   job JOIN run ON run.id = job.run_id JOIN project ON project.id = job.project_id
WHERE  job.id = $1`, jobID).Scan(&project, &run)
	return project, run, store.One(err)
}

// maxBlob bounds one upload where CodeLimit does not, in bytes.
const maxBlob = 1 << 30

// blobs are in the bucket that the settings name; else files beside SQLite, while replicas, which
// have no folder in common, share them in Postgres.
func (s *Server) blobs() blobstore.Store {
	switch {
	case s.bucket != nil: // which other servers may use too: they must not expire ours
		return blobstore.NewBucket(s.bucket, "dstack/"+s.db.ServerID()+"/blobs/", maxBlob)
	case s.db.Engine() == store.Postgres:
		return blobstore.NewDB(s.db, maxBlob)
	}
	return blobstore.NewFile(filepath.Join(s.Dir, "blobs"), maxBlob)
}
