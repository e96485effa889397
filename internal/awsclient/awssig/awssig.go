// Package awssig checks the signatures of requests to AWS, version 4, for tests. It is made after
// the documentation and shares nothing with the clients that sign.
package awssig

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Signer is who may call, and where.
type Signer struct {
	AccessKey, SecretKey string
	Region, Service      string
}

// Verify returns why r, whose body is given, was not signed by s less than 15 min ago.
func (s Signer) Verify(r *http.Request, body []byte) error {
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme != "AWS4-HMAC-SHA256" {
		return fmt.Errorf("no signature of version 4: %q", r.Header.Get("Authorization"))
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[k] = v
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil || time.Since(at).Abs() > 15*time.Minute {
		return fmt.Errorf("signed at %q", date)
	}
	scope := date[:8] + "/" + s.Region + "/" + s.Service + "/aws4_request"
	if fields["Credential"] != s.AccessKey+"/"+scope {
		return fmt.Errorf("signed for %q, want %s in %s", fields["Credential"], s.AccessKey, scope)
	}
	signed := strings.Split(fields["SignedHeaders"], ";")
	if !slices.Contains(signed, "host") {
		return errors.New("the host is not signed")
	}
	request, err := s.canonical(r, signed, body)
	if err != nil {
		return err
	}
	text := "AWS4-HMAC-SHA256\n" + date + "\n" + scope + "\n" + hash([]byte(request))
	key := []byte("AWS4" + s.SecretKey)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	if want := hex.EncodeToString(mac(key, text)); fields["Signature"] != want {
		return fmt.Errorf("the signature is not of this request:\n%s", request)
	}
	return nil
}

func (s Signer) canonical(r *http.Request, signed []string, body []byte) (string, error) {
	path := r.URL.EscapedPath()
	sum := hash(body)
	if s.Service == "s3" {
		if got := r.Header.Get("X-Amz-Content-Sha256"); got != sum {
			return "", fmt.Errorf("the body has the SHA-256 %s, signed is %q", sum, got)
		}
	} else {
		path = (&url.URL{Path: path}).EscapedPath()
	}
	if path == "" {
		path = "/"
	}
	var b strings.Builder
	b.WriteString(r.Method + "\n" + path + "\n" + query(r.URL.Query()) + "\n")
	for _, h := range signed {
		v := strings.Join(r.Header.Values(h), ",")
		switch h {
		case "host":
			v = r.Host
		case "content-length":
			v = fmt.Sprint(len(body))
		}
		b.WriteString(h + ":" + strings.Join(strings.Fields(v), " ") + "\n")
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + sum)
	return b.String(), nil
}

// query has the parameters in the order of their names, then of their values: a.1=x before a.10=x.
func query(q url.Values) string {
	var parts []string
	for _, k := range slices.SortedFunc(maps.Keys(q), func(a, b string) int { return strings.Compare(escape(a), escape(b)) }) {
		values := slices.Clone(q[k])
		slices.Sort(values)
		for _, v := range values {
			parts = append(parts, escape(k)+"="+escape(v))
		}
	}
	return strings.Join(parts, "&")
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
