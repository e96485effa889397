// Package nebiusclient calls the gRPC API of Nebius: one connection for each of its services, access
// tokens for a service account, and calls that are repeated when that makes sense. Stubs and messages
// are below pb, made by `go generate` from the vendor's description cut down to what is used; package
// nebiustest is a double of the API.
package nebiusclient

//go:generate pb/generate.sh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	iampb "dstack/internal/nebiusclient/pb/nebius/iam/v1"
)

// A Service is the name by which the vendor's description knows the host of an API.
type Service string

// The services in use.
const (
	IAM        Service = "cpl.iam"
	Compute    Service = "compute"
	Calculator Service = "api.calculator.billing-data-plane"

	tokenService Service = "tokens.iam"
)

// domain follows the name of a service.
const domain = ".api.nebius.cloud:443"

// Config is what New needs.
type Config struct {
	Credentials Credentials
	UserAgent   string // "dstack/1.2"
	// Endpoint is where all services are instead of at Nebius, optional: "https://host:port", or
	// "http://host:port" for one without TLS.
	Endpoint string
	// Dial makes connections, optional: in tests.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Received is told of the size of answers in bytes, optional.
	Received func(bytes int)
}

// Client calls services. It is safe for concurrent use.
type Client struct {
	config Config
	tokens tokens
	tls    bool
	host   string // of Endpoint with its port, "" without

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // by address, nil after Close
}

const (
	// maxAnswer bounds one answer in bytes, of which messages in memory can be fifty times the size.
	maxAnswer = 4 << 20
	// maxHeaders bounds what comes beside an answer, such as the details of an error.
	maxHeaders = 64 << 10
)

// New checks c. It calls nobody.
func New(c Config) (*Client, error) {
	if err := c.Credentials.check(); err != nil {
		return nil, err
	}
	client := &Client{config: c, tls: true, tokens: tokens{credentials: c.Credentials, closed: make(chan struct{})}, conns: map[string]*grpc.ClientConn{}}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" || u.User != nil {
			return nil, errors.New("the endpoint of Nebius is not one: write one like http://127.0.0.1:8080, without a path")
		}
		client.tls, client.host = u.Scheme == "https", u.Host
		if u.Port() == "" {
			client.host = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
		}
	}
	client.tokens.exchange = func(ctx context.Context, in *iampb.ExchangeTokenRequest) (*iampb.CreateTokenResponse, error) {
		conn, err := client.dial(tokenService)
		if err != nil {
			return nil, err
		}
		return iampb.NewTokenExchangeServiceClient(conn).Exchange(ctx, in)
	}
	return client, nil
}

// Close ends all connections, and calls that are under way. It is called once.
func (c *Client) Close() error {
	close(c.tokens.closed)
	c.mu.Lock()
	var err error
	for _, conn := range c.conns {
		err = errors.Join(err, conn.Close())
	}
	c.conns = nil
	c.mu.Unlock()
	c.tokens.running.Wait()
	return err
}

var errClosed = errors.New("the client is closed")

// dial is the connection to a service, which is made when it is used first.
func (c *Client) dial(s Service) (*grpc.ClientConn, error) {
	address := c.host
	if address == "" {
		address = string(s) + domain
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		return nil, errClosed
	}
	if conn, ok := c.conns[address]; ok {
		return conn, nil
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent(c.config.UserAgent),
		grpc.WithDisableRetry(), // which knows nothing of what the vendor says of errors
		grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}), // as the vendor's own programs do
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	}
	if c.tls {
		options[0] = grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	if c.config.Dial != nil {
		options = append(options, grpc.WithContextDialer(c.config.Dial))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, options...) // whose errors say what became of the name
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	c.conns[address] = conn
	return conn, nil
}

// Service returns what the stubs of a service need. Its calls carry an access token and last at most
// a minute. What the server says of a failure is an *[Error].
func (c *Client) Service(s Service) grpc.ClientConnInterface { return service{c, s} }

type service struct {
	client *Client
	name   Service
}

// NewStream implements grpc.ClientConnInterface. Nothing in the API streams.
func (s service) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}
