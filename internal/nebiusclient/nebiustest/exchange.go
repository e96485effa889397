package nebiustest

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	iampb "dstack/internal/nebiusclient/pb/nebius/iam/v1"
)

type exchange struct {
	iampb.UnimplementedTokenExchangeServiceServer
	s *Server
}

func (h exchange) Exchange(_ context.Context, in *iampb.ExchangeTokenRequest) (*iampb.CreateTokenResponse, error) {
	const grant, access, jwt = "urn:ietf:params:oauth:grant-type:token-exchange", "urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt"
	if in.GrantType != grant || in.RequestedTokenType != access || in.SubjectTokenType != jwt {
		return nil, status.Errorf(codes.InvalidArgument, "grant %q for %q of %q", in.GrantType, in.RequestedTokenType, in.SubjectTokenType)
	}
	if err := h.s.verify(in.SubjectToken, time.Now()); err != nil {
		return nil, status.Errorf(codes.Unauthenticated, "%v: %s", err, in.SubjectToken)
	}
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	answer := &iampb.CreateTokenResponse{AccessToken: h.s.issue(), IssuedTokenType: access, TokenType: "Bearer", ExpiresIn: int64(h.s.life() / time.Second)}
	if h.s.Issued != nil {
		h.s.Issued(answer)
	}
	return answer, nil
}

// longest is how long an assertion may be good for, as the vendor asks.
const longest = 5 * time.Minute

// verify checks an assertion: who signed it, for whom and for when.
func (s *Server) verify(assertion string, now time.Time) error {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return errors.New("it is not a JWT")
	}
	var head struct{ Alg, Typ, Kid string }
	var claims struct {
		Iss, Sub, Aud string
		Iat, Exp      int64
	}
	for part, into := range map[string]any{parts[0]: &head, parts[1]: &claims} {
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			return err
		}
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	issued, expires := time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0)
	switch {
	case head.Alg != "RS256" || head.Typ != "JWT" || head.Kid != PublicKey:
		return fmt.Errorf("head %+v", head)
	case rsa.VerifyPKCS1v15(&s.key.PublicKey, crypto.SHA256, sum[:], signature) != nil:
		return errors.New("the signature is wrong")
	case claims.Iss != ServiceAccount || claims.Sub != ServiceAccount:
		return fmt.Errorf("of %q for %q", claims.Iss, claims.Sub)
	case claims.Aud != "token-service.iam.new.nebiuscloud.net":
		return fmt.Errorf("for %q", claims.Aud)
	case issued.After(now) || !expires.After(now) || expires.Sub(issued) > longest:
		return fmt.Errorf("good from %v to %v", issued, expires)
	}
	return nil
}
