package nebiusclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// tryTimeout bounds one attempt of a call, of which there are at most tries, and callTimeout all
	// of them together.
	tryTimeout  = 10 * time.Second
	tries       = 3
	callTimeout = time.Minute
)

// Invoke implements grpc.ClientConnInterface. What it repeats has the same key of idempotency, so that
// nothing is done twice.
func (s service) Invoke(ctx context.Context, method string, in, out any, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("not done after %v", callTimeout))
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-idempotency-key", uuid.NewString())
	for n := 1; ; n++ {
		err := s.try(ctx, method, in, out, options)
		e, answered := errors.AsType[*Error](err)
		if n == tries || !answered || e.token || !e.repeatable() || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(pause(n)):
		case <-ctx.Done():
			return err
		}
	}
}

// try makes one attempt. A token may have been withdrawn: then it takes another, once.
func (s service) try(ctx context.Context, method string, in, out any, options []grpc.CallOption) error {
	tokens := &s.client.tokens
	token, err := tokens.get(ctx)
	if err != nil {
		return err
	}
	err = s.once(ctx, token, method, in, out, options)
	if status.Code(err) != codes.Unauthenticated || tokens.credentials.Token != "" {
		return err
	}
	tokens.drop(token)
	if token, err = tokens.get(ctx); err != nil {
		return err
	}
	return s.once(ctx, token, method, in, out, options)
}

func (s service) once(ctx context.Context, token, method string, in, out any, options []grpc.CallOption) error {
	what := string(s.name) + " " + method[strings.LastIndex(method, "/")+1:]
	conn, err := s.client.dial(s.name)
	if err != nil {
		return newError(what, err)
	}
	try, cancel := context.WithTimeoutCause(ctx, tryTimeout, fmt.Errorf("no answer in %v", tryTimeout))
	defer cancel()
	try = metadata.AppendToOutgoingContext(try, "authorization", "Bearer "+token)
	err = conn.Invoke(try, method, in, out, options...)
	if m, ok := out.(proto.Message); ok && err == nil && s.client.config.Received != nil {
		s.client.config.Received(proto.Size(m))
	}
	if err == nil {
		return nil
	}
	e := newError(what, inTime(try, err), token)
	if cause := context.Cause(try); e.Code() == codes.DeadlineExceeded && cause != nil {
		e.text = cause.Error() // which says how long it was waited
	}
	return e
}

// inTime is the error of a call, but that it took too long where it did: a server that knows the
// deadline may say something else of it at the same moment.
func inTime(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

// pause is how long to wait after the attempt n, so that those who failed together do not come
// back together.
func pause(n int) time.Duration {
	return time.Duration(n)*time.Second/2 + rand.N(time.Second/2)
}
