// Package awsclient opens what all clients of AWS share: credentials and region from where AWS
// programs look for them (environment, shared files, the machine's role), and a transport that
// gives up on whom does not answer.
package awsclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"
)

// Config is what Load needs; the zero value takes all from the environment.
type Config struct {
	Region      string
	Credentials aws.CredentialsProvider
	// Timeout bounds the wait for an answer after a request was sent; 0: 30 s.
	Timeout time.Duration
}

// ErrNoCredentials says that there are none, or that they cannot be had.
var ErrNoCredentials = errors.New("no AWS credentials")

// Load returns the configuration for clients. Region is empty when nobody says it.
func Load(ctx context.Context, c Config) (aws.Config, error) {
	client := awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = 10 * time.Second }).
		WithTransportOptions(func(t *http.Transport) { t.ResponseHeaderTimeout = cmp.Or(c.Timeout, 30*time.Second) })
	options := []func(*config.LoadOptions) error{config.WithHTTPClient(client)}
	if c.Region != "" {
		options = append(options, config.WithRegion(c.Region))
	}
	if c.Credentials != nil {
		options = append(options, config.WithCredentialsProvider(c.Credentials))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("read the AWS configuration: %w", err)
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return aws.Config{}, fmt.Errorf("%w: %w", ErrNoCredentials, err)
	}
	return cfg, nil
}

// Code is the code of an error that AWS answered, "" for other errors.
func Code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// Refused says that a code is about who calls, and stays so until somebody changes that.
func Refused(code string) bool {
	switch code {
	case "InvalidAccessKeyId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidSignatureException",
		"ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidClientTokenId", "MissingAuthenticationToken",
		"IncompleteSignature", "OptInRequired", "AccountProblem", "AllAccessDisabled":
		return true
	}
	return false
}
