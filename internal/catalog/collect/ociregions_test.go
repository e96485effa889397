package collect

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func exampleKey(t *testing.T) string {
	t.Helper()
	key, err := os.ReadFile("testdata/oci-example-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	return string(key)
}

// The signature is that of the example in Oracle's documentation.
func TestSignOCI(t *testing.T) {
	const id = "ocid1.tenancy.oc1..aaaaaaaaba3pv6wkcr4jqae5f15p2b2m2yt2j6rx32uzr4h25vqstifsfdsq/" +
		"ocid1.user.oc1..aaaaaaaat5nvwcna5j6aqzjcaty5eqbb6qt2jvpkanghtgdaqedqw3rynjq/20:3b:97:13:55:1c:5b:0d:d3:37:d8:50:4e:c5:3a:34"
	key, err := readOCIKey(exampleKey(t))
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse("https://iaas.us-phoenix-1.oraclecloud.com/20160918/instances?availabilityDomain=Pjwf%3A%20PHX-AD-1" +
		"&compartmentId=ocid1.compartment.oc1..aaaaaaaam3we6vgnherjq5q2idnccdflvjsnog7mlr6rtdb25gilchfeyjxa&displayName=TeamXInstances" +
		"&volumeId=ocid1.volume.oc1.phx.abyhqljrgvttnlx73nmrwfaux7kcvzfs3s66izvxf2h4lgvyndsdsnoiwr5q")
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{"Date": {"Thu, 05 Jan 2014 21:31:40 GMT"}}
	if err := signOCI(header, http.MethodGet, target, id, key); err != nil {
		t.Fatal(err)
	}
	want := `Signature version="1",keyId="` + id + `",algorithm="rsa-sha256",headers="date (request-target) host",` +
		`signature="GBas7grhyrhSKHP6AVIj/h5/Vp8bd/peM79H9Wv8kjoaCivujVXlpbKLjMPeDUhxkFIWtTtLBj3sUzaFj34XE6YZAHc9r2DmE4pMwOAy/kiITcZxa1oHPOeRheC0jP2dqbTll8fmTZVwKZOKHYPtrLJIJQHJjNvxFWeHQjMaR7M="`
	if diff := cmp.Diff(want, header.Get("Authorization")); diff != "" {
		t.Errorf("the signature differs (-want +got):\n%s", diff)
	}
}

// ociDouble is a double of what Oracle publishes, and of its identity service, which checks signatures.
type ociDouble struct {
	t        *testing.T
	public   http.Handler
	key      *rsa.PublicKey
	identity http.HandlerFunc // instead
}

var ociHeader = regexp.MustCompile(`^Signature version="1",keyId="tenancy/user/f:p",algorithm="rsa-sha256",headers="date \(request-target\) host",signature="([^"]+)"$`)

func (o *ociDouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Host == "www.oracle.com" {
		if r.Header.Get("Authorization") != "" {
			o.t.Error("public prices are asked for with credentials")
		}
		o.public.ServeHTTP(w, r)
		return
	}
	m := ociHeader.FindStringSubmatch(r.Header.Get("Authorization"))
	if r.URL.String() != "https://identity.eu-frankfurt-1.oraclecloud.com/20160918/regions" || m == nil {
		o.t.Errorf("asked for %s, %q", r.URL, r.Header.Get("Authorization"))
		return
	}
	signature, err := base64.StdEncoding.DecodeString(m[1])
	sum := sha256.Sum256([]byte("date: " + r.Header.Get("Date") + "\n(request-target): get /20160918/regions\nhost: identity.eu-frankfurt-1.oraclecloud.com"))
	if err != nil || rsa.VerifyPKCS1v15(o.key, crypto.SHA256, sum[:], signature) != nil {
		o.t.Errorf("the signature is not of this request: %q", r.Header)
	}
	if o.identity != nil {
		o.identity(w, r)
		return
	}
	_, _ = io.WriteString(w, `[{"key": "IAD", "name": "us-ashburn-1"}, {"key": "FRA", "name": "eu-frankfurt-1"}, {"key": "HSG", "name": "ap-batam-1"}]`)
}

// ociWith are credentials with a key.
func ociWith(key string) func(string) string {
	return func(name string) string {
		return map[string]string{
			"OCI_CLI_USER": "user", "OCI_CLI_TENANCY": "tenancy", "OCI_CLI_FINGERPRINT": "f:p", "OCI_CLI_REGION": "eu-frankfurt-1", "OCI_CLI_KEY_CONTENT": key,
		}[name]
	}
}

func (o *ociDouble) collect(t *testing.T, env func(string) string) (regions []string, got Collection, err error) {
	t.Helper()
	key, err := readOCIKey(exampleKey(t))
	if err != nil {
		t.Fatal(err)
	}
	o.public, o.key = answered(t, "oci"), &key.PublicKey
	k := known(t)
	synctest.Test(t, func(t *testing.T) {
		o.t = t
		c := settings(o, k)
		c.Env = env
		got, err = Collect(t.Context(), c, small(source(t, "oci")), today)
	})
	if err == nil {
		regions = got.List.Regions("oci")
	}
	return regions, got, err
}

// With credentials, prices are listed in all regions that Oracle has; without, in those that the program knows.
func TestOCIRegions(t *testing.T) {
	o := &ociDouble{}
	before, without, err := o.collect(t, func(string) string { return "" })
	if err != nil || without.NoAccount != nil {
		t.Fatal(err, without.NoAccount)
	}
	after, with, err := o.collect(t, ociWith(exampleKey(t)))
	if err != nil || with.NoAccount != nil {
		t.Fatal(err, with.NoAccount)
	}
	if diff := cmp.Diff([]string{"uk-london-1", "us-ashburn-1"}, before); diff != "" {
		t.Errorf("regions without credentials (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ap-batam-1", "eu-frankfurt-1", "uk-london-1", "us-ashburn-1"}, after); diff != "" {
		t.Errorf("regions with credentials (-want +got):\n%s", diff)
	}
	if with.List.Len() != 2*without.List.Len() {
		t.Errorf("%d rows in twice as many regions, %d before", with.List.Len(), without.List.Len())
	}
}

// What an account does not say, or says wrongly, costs the list nothing that it has without.
func TestOCIWithoutItsAccount(t *testing.T) {
	say := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = io.WriteString(w, body) }
	}
	der := func(kind string, key any) string {
		data, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := exampleKey(t)
	named := func(name, value string) func(string) string {
		return func(asked string) string {
			if asked == name {
				return value
			}
			return ociWith(key)(asked)
		}
	}
	for name, tt := range map[string]struct {
		env      func(string) string
		identity http.HandlerFunc
		want     string // of the reason
	}{
		"no PEM":              {ociWith("garbage"), nil, "OCI_CLI_KEY_CONTENT is not a key: there is no PEM"},
		"half a key":          {ociWith(strings.Replace(key, "MIICXgIBAAKBgQDCFENGw33yGihy92pDjZQhl0C36rPJj+CvfSC8+q28hxA161QF\n", "", 1)), nil, "its PEM has no RSA key"},
		"another kind of key": {ociWith(der("PRIVATE KEY", elliptical)), nil, "its PEM has no RSA key"},
		"an encrypted key":    {ociWith(der("ENCRYPTED PRIVATE KEY", elliptical)), nil, "it is encrypted"},
		"a former encryption": {ociWith(strings.Replace(key, "KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1)), nil, "it is encrypted"},
		"a name with a line":  {named("OCI_CLI_USER", "a\r\nb: c"), nil, "the names of tenancy, user and key"},
		"a host as region":    {named("OCI_CLI_REGION", "evil.example/"), nil, "OCI_CLI_REGION is not a region"},
		"it refuses":          {ociWith(key), say(http.StatusUnauthorized, `{"code": "NotAuthenticated"}`), `credentials rejected: {"code": "NotAuthenticated"}`},
		"no right":            {ociWith(key), say(http.StatusForbidden, "no"), "credentials rejected: no"},
		"it is down":          {ociWith(key), say(http.StatusServiceUnavailable, "down"), "status 503: down"},
		"it hangs":            {ociWith(key), func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer in 30s"},
		"not JSON":            {ociWith(key), say(http.StatusOK, `<html>`), "the answer is not what the provider documents"},
		"an object":           {ociWith(key), say(http.StatusOK, `{}`), "the answer is not what the provider documents"},
		"many things":         {ociWith(key), say(http.StatusOK, "["+strings.Repeat("{},", 1_000_001)+"{}]"), "it lists more than 1000000 things"},
		"many regions":        {ociWith(key), say(http.StatusOK, "["+strings.Repeat(`{"name": "us-ashburn-1"},`, maxOCIRegions)+"{}]"), "there are more than 300 regions"},
		"no name":             {ociWith(key), say(http.StatusOK, `[{"name": "us-ashburn-1"}, {"name": "a\u001b[2J"}]`), `"a\x1b[2J" is not a region`},
		"elsewhere": {ociWith(key), func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
		}, "elsewhere.example, which gets no credentials: set DSTACK_ENDPOINT_OCI"},
	} {
		t.Run(name, func(t *testing.T) {
			o := &ociDouble{identity: tt.identity}
			regions, got, err := o.collect(t, tt.env)
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{"uk-london-1", "us-ashburn-1"}; !slices.Equal(regions, want) {
				t.Errorf("prices are of %v, want %v", regions, want)
			}
			if got.NoAccount == nil || !strings.Contains(got.NoAccount.Error(), tt.want) || strings.Contains(fmt.Sprint(got.NoAccount), "MIIC") {
				t.Errorf("the account told nothing for %v, want %q", got.NoAccount, tt.want)
			}
		})
	}
}

// Keys are read in both forms in which Oracle's tools make them.
func TestReadOCIKey(t *testing.T) {
	want, err := readOCIKey(exampleKey(t))
	if err != nil {
		t.Fatal(err)
	}
	data, err := x509.MarshalPKCS8PrivateKey(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readOCIKey(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: data})))
	if err != nil || !got.Equal(want) {
		t.Errorf("a key in PKCS 8 is another: %v", err)
	}
}
