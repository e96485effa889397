// Package cloudwatch keeps logs in Amazon CloudWatch Logs: one group, and a stream
// <project>/<run>/<job id>/<job|runner> for each stream. Credentials come from where AWS programs
// look for them.
package cloudwatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"

	"dstack/internal/awsclient"
	"dstack/internal/logstore"
)

// Config is what New needs; only Group is required.
type Config struct {
	Group       string
	Region      string // optional: what the environment says
	Endpoint    string // optional: what the environment says (AWS_ENDPOINT_URL), else Amazon
	Credentials aws.CredentialsProvider
	Backoff     time.Duration // the longest wait before a read is repeated; optional: 2 s
}

// Sink is a [logstore.Sink].
type Sink struct {
	group, region string
	// client repeats what failed; writer does not: the outcome of a write that failed is not known.
	client, writer *cloudwatchlogs.Client
}

// ErrNoRegion says that nobody says which region the group is in.
var ErrNoRegion = fmt.Errorf("%w: no AWS region", logstore.ErrSettings)

// New reads the environment. awsclient.ErrNoCredentials says that there are no credentials.
func New(ctx context.Context, c Config) (*Sink, error) {
	cfg, err := awsclient.Load(ctx, awsclient.Config{Region: c.Region, Credentials: c.Credentials})
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" {
		return nil, ErrNoRegion
	}
	open := func(r aws.Retryer) *cloudwatchlogs.Client {
		return cloudwatchlogs.NewFromConfig(cfg, func(o *cloudwatchlogs.Options) {
			if c.Endpoint != "" {
				o.BaseEndpoint = &c.Endpoint
			}
			o.Retryer = r
		})
	}
	patient := retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = cmp.Or(c.Backoff, 2*time.Second) })
	return &Sink{c.Group, cfg.Region, open(patient), open(aws.NopRetryer{})}, nil
}

// Name implements [logstore.Sink].
func (s *Sink) Name() string { return "CloudWatch log group " + s.group }

// Limits implements [logstore.Sink]: those of PutLogEvents. Events older than 14 days or more than
// 2 hours ahead are refused; the margins are for batches that wait to be sent again.
func (s *Sink) Limits() logstore.Limits {
	const overhead = 26
	return logstore.Limits{
		Records: 10_000, BatchBytes: 1 << 20, RecordBytes: 256<<10 - overhead, Overhead: overhead, Growth: logstore.MaxTextGrowth,
		Span: 23 * time.Hour, Past: 13 * 24 * time.Hour, Future: 2*time.Hour - 10*time.Minute,
		Precision: time.Millisecond, Linger: time.Second,
	}
}

// Check implements [logstore.Sink].
func (s *Sink) Check(ctx context.Context) error {
	_, err := s.client.DescribeLogStreams(ctx, &cloudwatchlogs.DescribeLogStreamsInput{LogGroupName: &s.group, Limit: aws.Int32(1)})
	switch code := awsclient.Code(err); {
	case code == "ResourceNotFoundException":
		return fmt.Errorf("%w: there is no such log group in %s", logstore.ErrSettings, s.region)
	case awsclient.Refused(code), code == "AccessDeniedException", code == "InvalidParameterException", code == "ValidationException":
		return fmt.Errorf("%w: %w", logstore.ErrSettings, err)
	}
	return err
}

// Write implements [logstore.Sink]. A stream is made with its first batch.
func (s *Sink) Write(ctx context.Context, st logstore.Stream, records []logstore.Record) error {
	in := &cloudwatchlogs.PutLogEventsInput{LogGroupName: &s.group, LogStreamName: aws.String(st.Path())}
	for _, r := range records {
		in.LogEvents = append(in.LogEvents, types.InputLogEvent{Timestamp: aws.Int64(r.At.UnixMilli()), Message: aws.String(logstore.Text(r.Data))})
	}
	_, err := s.writer.PutLogEvents(ctx, in)
	if awsclient.Code(err) == "ResourceNotFoundException" {
		if err := s.create(ctx, st); err != nil {
			return fmt.Errorf("%w: create the stream: %w", logstore.ErrNotDone, err)
		}
		_, err = s.writer.PutLogEvents(ctx, in)
	}
	switch {
	case awsclient.Code(err) == "DataAlreadyAcceptedException":
		return nil
	case refused(err):
		return fmt.Errorf("%w: %w", logstore.ErrNotDone, err)
	}
	return err
}

// refused says that an answer proves that nothing was done.
func refused(err error) bool {
	e, ok := errors.AsType[*awshttp.ResponseError](err)
	return ok && e.HTTPStatusCode() >= 400 && e.HTTPStatusCode() < 500 && e.HTTPStatusCode() != http.StatusRequestTimeout
}

func (s *Sink) create(ctx context.Context, st logstore.Stream) error {
	_, err := s.client.CreateLogStream(ctx, &cloudwatchlogs.CreateLogStreamInput{LogGroupName: &s.group, LogStreamName: aws.String(st.Path())})
	if awsclient.Code(err) == "ResourceAlreadyExistsException" {
		return nil
	}
	return err
}

// maxPages bounds the pages of one read; many can be empty.
const maxPages = 1000

// Read implements [logstore.Sink].
func (s *Sink) Read(ctx context.Context, st logstore.Stream, want []logstore.Record) ([]logstore.Record, error) {
	in := &cloudwatchlogs.GetLogEventsInput{
		LogGroupName: &s.group, LogStreamName: aws.String(st.Path()), StartFromHead: aws.Bool(true),
		StartTime: aws.Int64(want[0].At.UnixMilli()), EndTime: aws.Int64(want[len(want)-1].At.UnixMilli() + 1), // exclusive
	}
	var got []logstore.Record
	seen := map[int64]bool{}
	for range maxPages {
		out, err := s.client.GetLogEvents(ctx, in)
		if awsclient.Code(err) == "ResourceNotFoundException" {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, e := range out.Events {
			at := aws.ToInt64(e.Timestamp)
			seen[at] = true
			got = append(got, logstore.Record{At: time.UnixMilli(at).UTC(), Data: logstore.Bytes(aws.ToString(e.Message))})
		}
		next := aws.ToString(out.NextForwardToken)
		if len(seen) >= len(want) || next == "" || next == aws.ToString(in.NextToken) { // the same token is the end
			return got, nil
		}
		in.NextToken = &next
	}
	return got, nil
}

// Delete implements [logstore.Sink]. Who may not delete leaves it to the group's retention.
func (s *Sink) Delete(ctx context.Context, st logstore.Stream) error {
	_, err := s.client.DeleteLogStream(ctx, &cloudwatchlogs.DeleteLogStreamInput{LogGroupName: &s.group, LogStreamName: aws.String(st.Path())})
	switch awsclient.Code(err) {
	case "ResourceNotFoundException", "AccessDeniedException":
		return nil
	}
	return err
}

// URL implements [logstore.Linker]: the stream in the console.
func (s *Sink) URL(st logstore.Stream) string {
	return "https://console.aws.amazon.com/cloudwatch/home?region=" + s.region +
		"#logsV2:log-groups/log-group/" + fragment(s.group) + "/log-events/" + fragment(st.Path())
}

// fragment quotes as the console does: percent signs are dollars, and twice.
func fragment(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "$25%02X", c)
		}
	}
	return b.String()
}
