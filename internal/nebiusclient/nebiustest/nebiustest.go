// Package nebiustest is a double of the API of Nebius, for tests: it keeps an account in memory, checks
// who asks, and fails when it is told to.
package nebiustest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"dstack/internal/nebiusclient"
	billingpb "dstack/internal/nebiusclient/pb/nebius/billing/v1alpha1"
	computepb "dstack/internal/nebiusclient/pb/nebius/compute/v1"
	iampb "dstack/internal/nebiusclient/pb/nebius/iam/v1"
	iamv2pb "dstack/internal/nebiusclient/pb/nebius/iam/v2"
)

// Endpoint is that of servers that are reached through [Server.Dial].
const Endpoint = "http://nebius.test"

// Server is the double. Its fields are set before it is started.
type Server struct {
	Account

	// PageSize is how many things a page has at most, 0: as many as are asked for.
	PageSize int
	// Life is how long access tokens are good for, 0: 12 hours.
	Life time.Duration
	// Fault is asked before the n-th call of a method, from 1: "List", "Estimate", "Exchange". It
	// returns nil for the usual answer. Optional.
	Fault func(ctx context.Context, method string, n int) error
	// Issued changes what is answered to who gets an access token. Optional.
	Issued func(*iampb.CreateTokenResponse)

	key    *rsa.PrivateKey
	memory *bufconn.Listener
	mu     sync.Mutex
	calls  map[string]int
	tokens map[string]time.Time // when they end
	issued int
}

// Account is what there is at Nebius.
type Account struct {
	Tenants   []*iamv2pb.Tenant
	Projects  []*iamv2pb.Project
	Platforms map[string][]*computepb.Platform // by id of the project
	// Price is what the calculator says of a type, nil for nothing.
	Price func(region, platform, preset string, spot bool) *billingpb.ResourceGroupCost
}

const (
	// ServiceAccount and PublicKey are who the server knows.
	ServiceAccount = "serviceaccount-e00test"
	PublicKey      = "publickey-e00test"
)

// key is that of the service account of all servers: to make one takes a while.
var key = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// New starts a server in memory.
func New(t testing.TB, s *Server) *Server {
	t.Helper()
	s.memory = bufconn.Listen(1 << 20)
	s.serve(t, s.memory)
	return s
}

// Listen starts a server on a port of its own of this machine, and returns its address: "127.0.0.1:40001".
func Listen(t testing.TB, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.serve(t, l)
	return l.Addr().String()
}

func (s *Server) serve(t testing.TB, l net.Listener) {
	t.Helper()
	k, err := key()
	if err != nil {
		t.Fatal(err)
	}
	s.key, s.calls, s.tokens = k, map[string]int{}, map[string]time.Time{}
	g := grpc.NewServer(grpc.UnaryInterceptor(s.intercept), grpc.WaitForHandlers(true), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second}))
	iampb.RegisterTokenExchangeServiceServer(g, exchange{s: s})
	iamv2pb.RegisterTenantServiceServer(g, tenants{s: s})
	iamv2pb.RegisterProjectServiceServer(g, projects{s: s})
	computepb.RegisterPlatformServiceServer(g, platforms{s: s})
	billingpb.RegisterCalculatorServiceServer(g, calculator{s: s})
	var served sync.WaitGroup
	served.Go(func() {
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		g.Stop()
		served.Wait()
	})
}

// Credentials are those of the service account.
func (s *Server) Credentials() nebiusclient.Credentials {
	return nebiusclient.Credentials{ServiceAccount: ServiceAccount, PublicKey: PublicKey, Key: s.key}
}

// Dial connects to a server in memory.
func (s *Server) Dial(ctx context.Context, _ string) (net.Conn, error) {
	return s.memory.DialContext(ctx)
}

// Hang answers nothing, for a [Server].Fault: whoever asked has given up when it returns. It is for
// tests in virtual time.
func Hang(ctx context.Context) error {
	<-ctx.Done()
	time.Sleep(time.Second) // the server hears of the end no later than who asked
	return ctx.Err()
}

// Calls is how often a method was called.
func (s *Server) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

// Withdraw ends all access tokens.
func (s *Server) Withdraw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Issue makes an access token, as Nebius' own programs do for people.
func (s *Server) Issue() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issue()
}

func (s *Server) issue() string {
	s.issued++
	token := fmt.Sprintf("ne1secret%05d.%s", s.issued, rand.Text())
	s.tokens[token] = time.Now().Add(s.life())
	return token
}

func (s *Server) life() time.Duration {
	if s.Life > 0 {
		return s.Life
	}
	return 12 * time.Hour
}

// intercept counts calls and lets in who has a token.
func (s *Server) intercept(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]
	s.mu.Lock()
	s.calls[method]++
	n := s.calls[method]
	s.mu.Unlock()
	if s.Fault != nil {
		if err := s.Fault(ctx, method, n); err != nil {
			return nil, err
		}
	}
	if err := s.admit(ctx, method); err != nil {
		return nil, err
	}
	return handle(ctx, in)
}

// admit checks what comes beside a request.
func (s *Server) admit(ctx context.Context, method string) error {
	md, _ := metadata.FromIncomingContext(ctx)
	authorization := md.Get("authorization")
	if method == "Exchange" {
		if len(authorization) > 0 {
			return status.Error(codes.InvalidArgument, "a token is exchanged without one")
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(authorization) != 1 {
		return status.Error(codes.Unauthenticated, "no token")
	}
	if ends, ok := s.tokens[strings.TrimPrefix(authorization[0], "Bearer ")]; !ok || !time.Now().Before(ends) {
		return status.Error(codes.Unauthenticated, "the token is not valid: "+authorization[0])
	}
	return nil
}

// usualPage is what a page has when nobody says how much.
const usualPage = 10

// page is a part of a list, and the token of the next.
func page[T any](s *Server, all []T, size int64, token string) ([]T, string, error) {
	if size <= 0 {
		size = usualPage
	}
	if s.PageSize > 0 {
		size = min(size, int64(s.PageSize))
	}
	from := 0
	if token != "" {
		var err error
		if from, err = strconv.Atoi(token); err != nil || from < 0 || from > len(all) {
			return nil, "", status.Error(codes.InvalidArgument, "page_token is none")
		}
	}
	to := min(from+int(size), len(all))
	next := ""
	if to < len(all) {
		next = strconv.Itoa(to)
	}
	return all[from:to], next, nil
}

type tenants struct {
	iamv2pb.UnimplementedTenantServiceServer
	s *Server
}

func (h tenants) List(_ context.Context, in *iamv2pb.ListTenantsRequest) (*iamv2pb.ListTenantsResponse, error) {
	items, next, err := page(h.s, h.s.Tenants, in.PageSize, in.PageToken)
	return &iamv2pb.ListTenantsResponse{Items: items, NextPageToken: next}, err
}

type projects struct {
	iamv2pb.UnimplementedProjectServiceServer
	s *Server
}

func (h projects) List(_ context.Context, in *iamv2pb.ListProjectsRequest) (*iamv2pb.ListProjectsResponse, error) {
	var mine []*iamv2pb.Project
	for _, p := range h.s.Projects {
		if p.GetMetadata().GetParentId() == in.ParentId {
			mine = append(mine, p)
		}
	}
	if in.ParentId == "" {
		return nil, status.Error(codes.InvalidArgument, "parent_id is required")
	}
	items, next, err := page(h.s, mine, in.PageSize, in.PageToken)
	return &iamv2pb.ListProjectsResponse{Items: items, NextPageToken: next}, err
}

type platforms struct {
	computepb.UnimplementedPlatformServiceServer
	s *Server
}

func (h platforms) List(_ context.Context, in *computepb.ListPlatformsRequest) (*computepb.ListPlatformsResponse, error) {
	all, ok := h.s.Platforms[in.ParentId]
	if !ok {
		return nil, status.Error(codes.NotFound, "there is no such project")
	}
	items, next, err := page(h.s, all, in.PageSize, in.PageToken)
	return &computepb.ListPlatformsResponse{Items: items, NextPageToken: next}, err
}

type calculator struct {
	billingpb.UnimplementedCalculatorServiceServer
	s *Server
}

func (h calculator) Estimate(_ context.Context, in *billingpb.EstimateRequest) (*billingpb.EstimateResponse, error) {
	asked := in.GetResourceSpec().GetComputeInstanceSpec()
	spec := asked.GetSpec()
	platform, preset := spec.GetResources().GetPlatform(), spec.GetResources().GetPreset()
	for _, p := range h.s.Projects {
		if p.GetMetadata().GetId() != asked.GetMetadata().GetParentId() {
			continue
		}
		cost := h.s.Price(p.GetSpec().GetRegion(), platform, preset, spec.GetPreemptible() != nil)
		return &billingpb.EstimateResponse{HourlyCost: cost, MonthlyCost: &billingpb.ResourceGroupCost{}}, nil
	}
	return nil, status.Error(codes.NotFound, "there is no such project")
}
