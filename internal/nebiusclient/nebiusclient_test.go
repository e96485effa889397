package nebiusclient_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"dstack/internal/nebiusclient"
	"dstack/internal/nebiusclient/nebiustest"
	commonpb "dstack/internal/nebiusclient/pb/nebius/common/v1"
	iampb "dstack/internal/nebiusclient/pb/nebius/iam/v1"
	iamv2pb "dstack/internal/nebiusclient/pb/nebius/iam/v2"
)

// open makes a client of a server in memory.
func open(t *testing.T, s *nebiustest.Server, change func(*nebiusclient.Config)) *nebiusclient.Client {
	t.Helper()
	nebiustest.New(t, s)
	c := nebiusclient.Config{Credentials: s.Credentials(), UserAgent: "dstack/test", Endpoint: nebiustest.Endpoint, Dial: s.Dial}
	if change != nil {
		change(&c)
	}
	client, err := nebiusclient.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return client
}

// tenants makes a call.
func tenants(ctx context.Context, c *nebiusclient.Client) error {
	_, err := iamv2pb.NewTenantServiceClient(c.Service(nebiusclient.IAM)).List(ctx, &iamv2pb.ListTenantsRequest{})
	return err
}

// A token serves everybody until most of its life is over, or until it is not taken any more.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		s := &nebiustest.Server{Life: time.Hour, Fault: func(_ context.Context, method string, _ int) error {
			if down && method == "Exchange" {
				return status.Error(codes.Unavailable, "down")
			}
			return nil
		}}
		c := open(t, s, nil)
		call := func(want string, tokens int) {
			t.Helper()
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if err := tenants(t.Context(), c); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
						t.Errorf("%v, want %q", err, want)
					}
				})
			}
			wg.Wait()
			if n := s.Calls("Exchange"); n != tokens {
				t.Errorf("%d tokens were asked for so far, want %d", n, tokens)
			}
		}
		call("", 1)
		time.Sleep(53 * time.Minute)
		call("", 1)
		time.Sleep(2 * time.Minute)
		call("", 2)
		s.Withdraw()
		call("", 3)

		down = true
		time.Sleep(55 * time.Minute) // the old one is still good
		if err := tenants(t.Context(), c); err != nil || s.Calls("Exchange") != 6 {
			t.Errorf("%v, %d tokens were asked for so far, want 6", err, s.Calls("Exchange"))
		}
		time.Sleep(6 * time.Minute)
		call("get an access token: down (Unavailable)", 9)
		down = false
		call("", 10)
	})
}

// Who waits for a token that others wait for too may give up alone.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &nebiustest.Server{Fault: func(ctx context.Context, method string, n int) error {
			if method == "Exchange" && n == 1 {
				return nebiustest.Hang(ctx)
			}
			return nil
		}}
		c := open(t, s, nil)
		var wg sync.WaitGroup
		wg.Go(func() {
			impatient, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
			defer cancel()
			if err := tenants(impatient, c); err == nil || err.Error() != "enough" {
				t.Errorf("%v, want enough", err)
			}
		})
		wg.Go(func() {
			if err := tenants(t.Context(), c); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	})
}

func TestRepeats(t *testing.T) {
	failing := func(code codes.Code, retry commonpb.ServiceError_RetryType) error {
		s, err := status.New(code, "it failed").WithDetails(&commonpb.ServiceError{Service: "iam", Code: "X", RetryType: retry})
		if err != nil {
			t.Fatal(err)
		}
		return s.Err()
	}
	hang := errors.New("no answer")
	for name, tt := range map[string]struct {
		err   error
		times int // that it fails
		calls int
		took  time.Duration // at least, and at most a few seconds more
		want  string
	}{
		"all is well":              {nil, 0, 1, 0, ""},
		"down for a moment":        {status.Error(codes.Unavailable, "down"), 2, 3, 1500 * time.Millisecond, ""},
		"down":                     {status.Error(codes.Unavailable, "down"), 9, 3, 1500 * time.Millisecond, "cpl.iam List: down (Unavailable)"},
		"asked too often":          {status.Error(codes.ResourceExhausted, "slower"), 1, 2, 500 * time.Millisecond, ""},
		"a wrong question":         {status.Error(codes.InvalidArgument, "what?"), 1, 1, 0, "cpl.iam List: what? (InvalidArgument)"},
		"it says to ask again":     {failing(codes.Internal, commonpb.ServiceError_CALL), 1, 2, 500 * time.Millisecond, ""},
		"it says not to ask again": {failing(codes.Unavailable, commonpb.ServiceError_NOTHING), 1, 1, 0, "it failed (Unavailable)"},
		"all must be done again":   {failing(codes.Unavailable, commonpb.ServiceError_UNIT_OF_WORK), 1, 1, 0, "it failed (Unavailable)"},
		"it says nothing of that":  {failing(codes.Unavailable, commonpb.ServiceError_UNSPECIFIED), 1, 2, 500 * time.Millisecond, ""},
		"it hangs once":            {hang, 1, 2, 10 * time.Second, ""},
		"it hangs":                 {hang, 9, 3, 31 * time.Second, "cpl.iam List: no answer in 10s (DeadlineExceeded)"},
		"not allowed":              {status.Error(codes.PermissionDenied, "not you"), 1, 1, 0, "not you (PermissionDenied)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &nebiustest.Server{Fault: func(ctx context.Context, method string, n int) error {
					switch {
					case method != "List" || n > tt.times:
						return nil
					case tt.err == hang:
						return nebiustest.Hang(ctx)
					}
					if md, _ := metadata.FromIncomingContext(ctx); !strings.HasPrefix(strings.Join(md.Get("user-agent"), ""), "dstack/test ") {
						t.Errorf("user agent %q", md.Get("user-agent"))
					}
					return tt.err
				}}
				c := open(t, s, nil)
				began := time.Now()
				if err := tenants(t.Context(), c); (err == nil) != (tt.want == "") || err != nil && !strings.HasSuffix(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				if took := time.Since(began); took < tt.took || took > tt.took+3*time.Second {
					t.Errorf("took %v, want %v or a little more", took, tt.took)
				}
				if n := s.Calls("List"); n != tt.calls {
					t.Errorf("%d calls, want %d", n, tt.calls)
				}
			})
		})
	}
}

// What is repeated has the same key of idempotency, other calls have another.
func TestIdempotency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := map[string]int{}
		s := &nebiustest.Server{Fault: func(ctx context.Context, method string, n int) error {
			if md, _ := metadata.FromIncomingContext(ctx); method == "List" {
				keys[strings.Join(md.Get("x-idempotency-key"), ",")]++
			}
			if n == 1 && method == "List" {
				return status.Error(codes.Unavailable, "")
			}
			return nil
		}}
		c := open(t, s, nil)
		for range 2 {
			if err := tenants(t.Context(), c); err != nil {
				t.Error(err)
			}
		}
		if len(keys) != 2 || s.Calls("List") != 3 || keys[""] > 0 {
			t.Errorf("%d calls with the keys %v, want two", s.Calls("List"), keys)
		}
	})
}

// Credentials that are not taken are known at once, and no secret is in what is said of it.
func TestRefused(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*nebiusclient.Credentials)
		want   string
	}{
		"a key that is not known": {func(c *nebiusclient.Credentials) { c.Key = other }, "get an access token: the signature is wrong: *** (Unauthenticated)"},
		"another key's id":        {func(c *nebiusclient.Credentials) { c.PublicKey = "publickey-x" }, "Kid:publickey-x}: *** (Unauthenticated)"},
		"another account":         {func(c *nebiusclient.Credentials) { c.ServiceAccount = "x" }, `of "x" for "x": *** (Unauthenticated)`},
		"a token":                 {func(c *nebiusclient.Credentials) { *c = nebiusclient.Credentials{Token: "ne1secret"} }, "cpl.iam List: the token is not valid: Bearer *** (Unauthenticated)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &nebiustest.Server{}
				c := open(t, s, func(c *nebiusclient.Config) { tt.change(&c.Credentials) })
				began := time.Now()
				err := tenants(t.Context(), c)
				if !errors.Is(err, nebiusclient.ErrRefused) || !strings.HasSuffix(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// Answers with tokens that are none end the call.
func TestStrangeTokens(t *testing.T) {
	const want = "get an access token: the answer has no bearer token"
	for name, tt := range map[string]struct {
		change func(*iampb.CreateTokenResponse)
		want   string
		tokens int // of three calls
	}{
		"none":              {func(a *iampb.CreateTokenResponse) { a.AccessToken = "" }, want, 3},
		"of another kind":   {func(a *iampb.CreateTokenResponse) { a.TokenType = "MAC" }, want, 3},
		"with another line": {func(a *iampb.CreateTokenResponse) { a.AccessToken += "\r\nx-admin: 1" }, want, 3},
		"without end":       {func(a *iampb.CreateTokenResponse) { a.AccessToken = strings.Repeat("a", 1<<20) }, want, 3},
		"that have ended":   {func(a *iampb.CreateTokenResponse) { a.ExpiresIn = -1 << 62 }, "", 3},
		"that never end":    {func(a *iampb.CreateTokenResponse) { a.ExpiresIn = 1<<63 - 1 }, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &nebiustest.Server{Issued: tt.change}
				c := open(t, s, nil)
				for range 3 {
					if err := tenants(t.Context(), c); (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
						t.Errorf("%v, want %q", err, tt.want)
					}
				}
				if n := s.Calls("Exchange"); n != tt.tokens {
					t.Errorf("%d tokens were asked for, want %d", n, tt.tokens)
				}
			})
		})
	}
}

// Whoever answers is to prove that it is Nebius, and to speak as it does.
func TestOtherServers(t *testing.T) {
	for name, tt := range map[string]struct {
		start func(*httptest.Server)
		took  time.Duration // at most
		want  string
	}{
		"of a stranger": {(*httptest.Server).StartTLS, 3 * time.Second, "certificate"},
		"of pages":      {(*httptest.Server).Start, 3 * time.Second, "cpl.iam List: "},
		"of silence": {func(s *httptest.Server) {
			s.URL = nebiustest.Endpoint
			go func() { // until the listener is closed
				for {
					if _, err := s.Listener.Accept(); err != nil {
						return
					}
				}
			}()
		}, 35 * time.Second, "cpl.iam List: "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := bufconn.Listen(1 << 20)
				s := httptest.NewUnstartedServer(http.NotFoundHandler())
				s.Listener, s.EnableHTTP2, s.Config.ErrorLog = l, true, log.New(io.Discard, "", 0)
				tt.start(s)
				defer s.Close()
				c, err := nebiusclient.New(nebiusclient.Config{
					Credentials: nebiusclient.Credentials{Token: "ne1secret"}, Endpoint: s.URL,
					Dial: func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) },
				})
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if err := tenants(t.Context(), c); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v, want %q", err, tt.want)
				}
				if took := time.Since(began); took > tt.took {
					t.Errorf("took %v, want %v at most", took, tt.took)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestNew(t *testing.T) {
	token := nebiusclient.Credentials{Token: "ne1secret"}
	for name, tt := range map[string]struct {
		config nebiusclient.Config
		want   string
	}{
		"a token":        {nebiusclient.Config{Credentials: token}, ""},
		"an endpoint":    {nebiusclient.Config{Credentials: token, Endpoint: "https://nebius.test"}, ""},
		"no credentials": {nebiusclient.Config{}, "there is no access token, and a service account needs"},
		"no key":         {nebiusclient.Config{Credentials: nebiusclient.Credentials{ServiceAccount: "a", PublicKey: "k"}}, "a service account needs its id, its key and the key's id"},
		"a broken token": {nebiusclient.Config{Credentials: nebiusclient.Credentials{Token: "ne1secret\n"}}, "the access token has characters that none has"},
		"another scheme": {nebiusclient.Config{Credentials: token, Endpoint: "ftp://nebius.test"}, "the endpoint of Nebius is not one"},
		"a path":         {nebiusclient.Config{Credentials: token, Endpoint: "http://nebius.test/a"}, "without a path"},
		"a password":     {nebiusclient.Config{Credentials: token, Endpoint: "http://a:secret@nebius.test"}, "the endpoint of Nebius is not one"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := nebiusclient.New(tt.config)
			if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret")) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if err == nil {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestParseFile(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	pkcs1 := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	for name, tt := range map[string]struct {
		change map[string]string
		want   string // of the error
	}{
		"as Nebius writes it": {map[string]string{"type": "JWT"}, ""},
		"without a type":      {nil, ""},
		"PKCS#1":              {map[string]string{"private-key": pkcs1}, ""},
		"another type":        {map[string]string{"type": "API_KEY"}, `subject-credentials.type: "API_KEY" is not JWT`},
		"another algorithm":   {map[string]string{"alg": "none"}, `subject-credentials.alg: "none" is not RS256`},
		"of another":          {map[string]string{"iss": "b"}, `subject-credentials: iss "b" is not sub "serviceaccount-a"`},
		"of nobody":           {map[string]string{"iss": "", "sub": ""}, "subject-credentials: sub and kid are required"},
		"no id of the key":    {map[string]string{"kid": ""}, "subject-credentials: sub and kid are required"},
		"another key":         {map[string]string{"private-key": pkcs8(curve)}, "subject-credentials.private-key: it is not a private key for RSA"},
		"half a key":          {map[string]string{"private-key": pkcs1[:len(pkcs1)/2]}, "subject-credentials.private-key: it is not a private key in PEM"},
		"no key":              {map[string]string{"private-key": string(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: []byte("x")}))}, "subject-credentials.private-key: it is not a private key in PKCS#1 or PKCS#8"},
	} {
		t.Run(name, func(t *testing.T) {
			subject := map[string]string{"alg": "RS256", "private-key": pkcs8(key), "kid": "publickey-a", "iss": "serviceaccount-a", "sub": "serviceaccount-a"}
			for field, value := range tt.change {
				subject[field] = value
			}
			text, err := json.Marshal(map[string]any{"subject-credentials": subject})
			if err != nil {
				t.Fatal(err)
			}
			c, err := nebiusclient.ParseFile(text)
			if fmt.Sprint(err) != tt.want && (err != nil || tt.want != "") {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if err == nil && (!c.Key.Equal(key) || c.ServiceAccount != "serviceaccount-a" || c.PublicKey != "publickey-a") {
				t.Errorf("read %v", c)
			}
		})
	}
	if _, err := nebiusclient.ParseFile([]byte(`{"subject-credentials": "secret`)); err == nil || err.Error() != "it is not a credentials file in JSON" {
		t.Errorf("a broken file: %v", err)
	}
}

// After its end a client makes no connections.
func TestClosed(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, credentials := range []nebiusclient.Credentials{{Token: "ne1secret"}, {ServiceAccount: "a", PublicKey: "k", Key: key}} {
		c, err := nebiusclient.New(nebiusclient.Config{Credentials: credentials, Dial: func(context.Context, string) (net.Conn, error) {
			t.Error("a connection is made")
			return nil, io.EOF
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := tenants(t.Context(), c); err == nil || !strings.Contains(err.Error(), "the client is closed") {
			t.Errorf("%v", err)
		}
	}
}

// Credentials that are written somewhere by mistake tell nothing.
func TestLoggedCredentials(t *testing.T) {
	for _, c := range []nebiusclient.Credentials{{Token: "ne1secret"}, {ServiceAccount: "a", Key: &rsa.PrivateKey{}}} {
		var text strings.Builder
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "credentials", c)
		fmt.Fprintf(&text, "%v %+v %s", c, &c, c)
		if strings.Contains(text.String(), "secret") || strings.Contains(text.String(), "Primes") {
			t.Errorf("it was written: %s", text.String())
		}
	}
}

// Nothing in the API streams.
func TestStreams(t *testing.T) {
	c, err := nebiusclient.New(nebiusclient.Config{Credentials: nebiusclient.Credentials{Token: "ne1secret"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Service(nebiusclient.Compute).NewStream(t.Context(), &grpc.StreamDesc{}, "/a/B"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
