package server

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"

	"dstack/internal/config"
)

// form says which values a setting can have at most. What a service may take one day, or does not
// know yet, is left to the look at it.
type form struct {
	names []string
	fits  func(string) bool
	want  string
}

// storageForms are of the settings that name storages. The patterns are wide: S3 has old buckets with
// capitals and names that are ARNs, other stores have regions of their own, Elasticsearch reads from
// several indices.
var storageForms = []form{
	{[]string{varS3Bucket, varOldBucket, varS3LogBucket}, matches(`[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]|arn:[!-~]+`), "the name of a bucket: 3 or more letters, digits, dots and hyphens"},
	{[]string{varGCSBucket, varGCSLogBucket}, matches(`[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]`), "the name of a bucket: 3 or more small letters, digits, dots, hyphens and underscores"},
	{[]string{varS3Region, varOldRegion, varS3LogRegion, varLogRegion}, matches(`[A-Za-z0-9-]{1,63}`), "the name of a region, such as eu-west-1"},
	{[]string{varLogGroup}, matches(`[A-Za-z0-9._/#-]{1,512}`), "the name of a log group: letters, digits and . _ / # -"},
	{[]string{varLoggingProject}, matches(`([a-z0-9.-]+:)?[a-z0-9][a-z0-9-]{0,61}`), "the id of a project: small letters, digits and hyphens"},
	{[]string{varFluentHost}, isHost, "a host name or an address, without a scheme and a port"},
	{[]string{varFluentTagPrefix}, matches(`[!-~]{1,255}`), "a tag without spaces"},
	{[]string{varSearchIndex}, matches(`[^\\/?"<>| #A-Z[:cntrl:]]{1,255}`), "the name of an index: no capitals, no spaces, none of \\ / ? \" < > | #"},
	{[]string{varSearchHost, varGCSEndpoint, varLoggingEndpoint, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS"}, isURL, "http://host:port or https://host"},
}

// runForms are of the settings that become a part of runs.
var runForms = []form{
	{[]string{"DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY"}, matches(`[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9._-]+)*/?`), "HOST, HOST:PORT or HOST/PATH, without a scheme"},
	{[]string{"DSTACK_DOCKER_BASE_IMAGE", "DSTACK_DIND_IMAGE"}, isImage, "the name of an image"},
	{[]string{"DSTACK_DOCKER_BASE_IMAGE_VERSION", "DSTACK_DOCKER_BASE_IMAGE_UBUNTU_VERSION"}, matches(`[A-Za-z0-9_.-]{1,64}`), "a part of a tag, such as 24.04"},
	{[]string{"DSTACK_SERVER_TEMPLATES_REPO"}, matches(`[!-~]+`), "the address of a git repository"},
}

// checkForms names each setting whose value can never be right.
func checkForms(env func(string) string, forms []form) (errs []error) {
	for _, f := range forms {
		for _, name := range f.names {
			if v := env(name); v != "" && !f.fits(v) {
				errs = append(errs, fmt.Errorf("%s=%s: write %s", name, v, f.want))
			}
		}
	}
	return errs
}

func matches(pattern string) func(string) bool {
	return regexp.MustCompile(`^(` + pattern + `)$`).MatchString
}

var isHostName = matches(`[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?`)

var isImageText = matches(`[A-Za-z0-9][A-Za-z0-9._/:@-]*`)

func isImage(text string) bool {
	_, err := config.ParseImage(text)
	return err == nil && isImageText(text)
}

// isHost says that a text is a host name or an address.
func isHost(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil || isHostName(text)
}

// isURL says that a text is where an HTTP server can be.
func isURL(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !isHost(u.Hostname()) {
		return false
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return u.Port() == "" || err == nil && port > 0
}

// isToken says that a text can follow "Bearer" in a header.
var isToken = matches(`[!-~]{0,1000}`)
