package collect

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	ociUser, ociKey, ociFingerprint = "OCI_CLI_USER", "OCI_CLI_KEY_CONTENT", "OCI_CLI_FINGERPRINT"
	ociTenancy, ociRegion           = "OCI_CLI_TENANCY", "OCI_CLI_REGION"

	// maxOCIRegions bounds the answer. Oracle has some fifty.
	maxOCIRegions = 300
)

// ociRegionName is what regions are called: us-ashburn-1.
var ociRegionName = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]{1,2}$`)

// ociRegions asks the account's region which regions there are.
func (s *session) ociRegions(ctx context.Context) ([]string, error) {
	home := s.env(ociRegion)
	if !ociRegionName.MatchString(home) { // it becomes part of a host's name
		return nil, fmt.Errorf("%s is not a region: write one like us-ashburn-1", ociRegion)
	}
	key, err := readOCIKey(s.env(ociKey))
	if err != nil {
		return nil, fmt.Errorf("%s is not a key: %w", ociKey, err)
	}
	id := strings.Join([]string{s.env(ociTenancy), s.env(ociUser), s.env(ociFingerprint)}, "/")
	identity := s.account("https://identity." + home + ".oraclecloud.com")
	const path = "/20160918/regions"
	target, err := url.Parse(identity.base + path)
	if err != nil {
		return nil, err
	}
	header := http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}}
	if err := signOCI(header, http.MethodGet, target, id, key); err != nil {
		return nil, err
	}
	var regions []struct{ Name string }
	if err := identity.get(ctx, path, header, &regions); err != nil {
		return nil, err
	}
	if len(regions) > maxOCIRegions {
		return nil, fmt.Errorf("%w: there are more than %d regions", errStrange, maxOCIRegions)
	}
	var names []string
	for _, r := range regions {
		if !ociRegionName.MatchString(r.Name) || len(r.Name) > 40 {
			return nil, fmt.Errorf("%w: %.40q is not a region", errStrange, r.Name)
		}
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return names, nil
}

// readOCIKey reads a private key in PEM, after which Oracle's files have a label. Its errors tell nothing of
// the key.
func readOCIKey(text string) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, errors.New("there is no PEM")
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return nil, errors.New("it is encrypted")
	case block.Type == "RSA PRIVATE KEY":
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("its PEM has no RSA key")
		}
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if rsaKey, ok := key.(*rsa.PrivateKey); ok && err == nil {
		return rsaKey, nil
	}
	return nil, errors.New("its PEM has no RSA key")
}

// signOCI signs a request without a body, whose header has its date, with the key of an account
// (docs.oracle.com/en-us/iaas/Content/API/Concepts/signingrequests.htm).
func signOCI(header http.Header, method string, target *url.URL, id string, key *rsa.PrivateKey) error {
	if strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
		return errors.New("the names of tenancy, user and key are not of letters, digits and points")
	}
	text := "date: " + header.Get("Date") + "\n(request-target): " + strings.ToLower(method) + " " + target.RequestURI() + "\nhost: " + target.Host
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		return fmt.Errorf("sign the request: %w", err)
	}
	header.Set("Authorization", fmt.Sprintf(`Signature version="1",keyId="%s",algorithm="rsa-sha256",headers="date (request-target) host",signature="%s"`,
		id, base64.StdEncoding.EncodeToString(signature)))
	return nil
}
