package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

const (
	azureSubscription, azureTenant = "AZURE_SUBSCRIPTION_ID", "AZURE_TENANT_ID"
	azureClient, azureSecret       = "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"

	azureLogin  = "https://login.microsoftonline.com"
	azureManage = "https://management.azure.com"

	// maxAzureSKU bounds one thing of the list, in bytes, maxAzureSKUs how many there are: Azure has some
	// hundred thousand, one for each type and region.
	maxAzureSKU  = 1 << 20
	maxAzureSKUs = 1_000_000
	// maxAzureTypes and maxAzureRegions bound what is made of it. Azure has a thousand types and a hundred regions.
	maxAzureTypes, maxAzureRegions = 10_000, 300
)

// azureFound is what a subscription is told of the types of machines, and where they are.
type azureFound struct {
	types   map[string]azureType
	regions map[string]bool
}

// azureType is what a type has. It has no CPUs where what is said makes no sense.
type azureType struct {
	cpus, memoryMiB, gpus int
	arch                  string
}

// azureTypes asks for the types of the subscription (Microsoft.Compute/skus/read).
func (s *session) azureTypes(ctx context.Context) (found azureFound, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, accountLimit, fmt.Errorf("it took longer than %v", accountLimit))
	defer cancel()
	token, err := s.account(azureLogin).azureToken(ctx)
	if err != nil {
		return found, err
	}
	found = azureFound{map[string]azureType{}, map[string]bool{}}
	manage := s.account(azureManage)
	path := "/subscriptions/" + url.PathEscape(s.env(azureSubscription)) + "/providers/Microsoft.Compute/skus?api-version=2021-07-01"
	for range maxPages {
		next := ""
		err := manage.stream(ctx, path, bearer(token), func(r io.Reader) (err error) {
			if next, err = readAzureSKUs(r, found.add); err != nil {
				return fmt.Errorf("GET %s: %w", plain(path), err)
			}
			return nil
		})
		if err != nil {
			return azureFound{}, err
		}
		if next == "" {
			return found, nil
		}
		if path, err = manage.following(next); err != nil {
			return azureFound{}, err
		}
	}
	return azureFound{}, fmt.Errorf("%w: there are more than %d pages of types", errStrange, maxPages)
}

// azureToken lets the application in that the credentials are of.
func (s *session) azureToken(ctx context.Context) (string, error) {
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {azureManage + "/.default"}, "client_id": {s.env(azureClient)}, "client_secret": {s.env(azureSecret)},
	}
	return s.token(ctx, "/"+url.PathEscape(s.env(azureTenant))+"/oauth2/v2.0/token", form)
}

// following is the path of a further page, which must be where the first one was.
func (s *session) following(address string) (path string, err error) {
	u, err := url.Parse(address)
	base, baseErr := url.Parse(s.base)
	if err := errors.Join(err, baseErr); err != nil {
		return "", fmt.Errorf("%w: the address of a page is none", errStrange)
	}
	path, below := strings.CutPrefix(u.RequestURI(), base.EscapedPath()+"/")
	if u.Scheme != base.Scheme || u.Hostname() != base.Hostname() || !below {
		return "", fmt.Errorf("%w: a page is at %s", errStrange, printable(u.Host))
	}
	return "/" + path, nil
}

// azureSKU is one of the things that a subscription can have, in some regions.
type azureSKU struct {
	Kind         string `json:"resourceType"`
	Name         string
	Locations    []string
	Capabilities []struct{ Name, Value string }
}

// readAzureSKUs takes the things of a page, which is too long to be kept, one after the other.
func readAzureSKUs(r io.Reader, take func(azureSKU) error) (next string, err error) {
	b := &budget{r: r, rest: maxAzureSKU}
	in := json.NewDecoder(b)
	if err := opens(in, '{'); err != nil {
		return "", err
	}
	n := 0
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return "", strange(err)
		}
		b.rest = maxAzureSKU
		switch key {
		case "value":
			if err := opens(in, '['); err != nil {
				return "", err
			}
			for in.More() {
				var sku azureSKU
				if n++; n > maxAzureSKUs {
					return "", fmt.Errorf("%w: it lists more than %d things", errStrange, maxAzureSKUs)
				}
				if err := in.Decode(&sku); err != nil {
					return "", strange(err)
				}
				b.rest = maxAzureSKU
				if err := take(sku); err != nil {
					return "", err
				}
			}
			if err := opens(in, ']'); err != nil {
				return "", err
			}
		case "nextLink":
			err = in.Decode(&next)
		default:
			err = in.Decode(new(json.RawMessage))
		}
		if err != nil {
			return "", strange(err)
		}
	}
	return next, opens(in, '}')
}

// opens reads one delimiter.
func opens(in *json.Decoder, want json.Delim) error {
	got, err := in.Token()
	switch {
	case err != nil:
		return strange(noEOF(err))
	case got != want:
		return fmt.Errorf("%w: there is no %q", errStrange, want.String())
	}
	return nil
}

func strange(err error) error { return fmt.Errorf("%w: %w", errStrange, err) }

// budget bounds how much is read before rest is set again.
type budget struct {
	r    io.Reader
	rest int
}

// Read implements io.Reader.
func (b *budget) Read(p []byte) (int, error) {
	if b.rest <= 0 {
		return 0, fmt.Errorf("one of its parts has more than %d bytes", maxAzureSKU)
	}
	n, err := b.r.Read(p[:min(len(p), b.rest)])
	b.rest -= n
	return n, err
}

// add remembers a type of machines and where it is. Where there are several of one name, the first counts.
func (f azureFound) add(sku azureSKU) error {
	if sku.Kind != "virtualMachines" || !azureName.MatchString(sku.Name) {
		return nil
	}
	for _, place := range sku.Locations {
		if place = strings.ToLower(place); azureRegion.MatchString(place) {
			f.regions[place] = true
		}
	}
	if _, known := f.types[sku.Name]; !known && !azureRetired.MatchString(sku.Name) {
		f.types[sku.Name] = sku.machine()
	}
	if len(f.types) > maxAzureTypes || len(f.regions) > maxAzureRegions {
		return fmt.Errorf("%w: there are more than %d types or %d regions", errStrange, maxAzureTypes, maxAzureRegions)
	}
	return nil
}

// machine reads what a type has.
func (s azureSKU) machine() azureType {
	has := map[string]string{"GPUs": "0"}
	for _, c := range s.Capabilities {
		has[c.Name] = c.Value
	}
	if some := has["vCPUsAvailable"]; some != "" { // of types with some of their CPUs switched off
		has["vCPUs"] = some
	}
	m := azureType{arch: "x86"}
	if has["CpuArchitectureType"] == "Arm64" {
		m.arch = "arm"
	}
	gib, err := strconv.ParseFloat(has["MemoryGB"], 64)
	m.memoryMiB = mib(gib)
	var cpusErr, gpusErr error
	m.cpus, cpusErr = strconv.Atoi(has["vCPUs"])
	m.gpus, gpusErr = strconv.Atoi(has["GPUs"])
	if errors.Join(err, cpusErr, gpusErr) != nil || m.memoryMiB < 1 || m.gpus < 0 {
		return azureType{}
	}
	return m
}

var (
	azureRegion = regexp.MustCompile(`^[a-z0-9]{1,40}$`)
	azureName   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
	// azureRetired are series that are not sold any more, or soon not (catalog 8.2).
	azureRetired = regexp.MustCompile(`^(Basic_A\d+|Standard_(A\d+|D\d+|DC\d+s|DS\d+|F\d+|F\d+s|G\d+|GS\d+|L\d+s|NC\d+r?|NC\d+r?s_v2|ND\d+r?s|NV\d+|NV\d+s_v2))$`)
	// azureAccelerated are series whose machines have accelerators, whatever is said of them.
	azureAccelerated = regexp.MustCompile(`^Standard_N`)
)

// azureTypes adds what a subscription knows to the types that the program does. It leaves out those of which
// something is not known.
func (t *tray) azureTypes(types map[string]pricelist.Row, found map[string]azureType) {
	for name, m := range found {
		old, known := types[name]
		r, ok := t.azureRow(name, m, old)
		switch {
		case ok:
			types[name] = r
		case !known:
			t.leaveOut(name)
		}
	}
}

// azureRow is what a type has, in which what the program knows of GPUs goes before what names say.
func (t *tray) azureRow(name string, m azureType, known pricelist.Row) (r pricelist.Row, ok bool) {
	if m.cpus < 1 {
		return r, false
	}
	r = pricelist.Row{Instance: name, CPUs: m.cpus, MemoryMiB: m.memoryMiB, Arch: m.arch, DiskMiB: known.DiskMiB, GPU: known.GPU, GPUs: known.GPUs}
	switch {
	case known.Instance != "":
		return r, true
	case m.gpus == 0:
		return r, !azureAccelerated.MatchString(name)
	}
	r.GPUs = m.gpus
	r.GPU, ok = t.azureGPU(name)
	return r, ok
}

// azureSeries have GPUs that nothing but the names of their types tells, the number in them first.
var azureSeries = []struct {
	name  *regexp.Regexp // below Standard_
	gpu   string
	gib   float64
	whole int // the number from which a type has whole GPUs; those below have a part of one. 0: all have whole ones
}{
	{regexp.MustCompile(`^NC(\d+)ads_A100_v4$`), "A100", 80, 0},
	{regexp.MustCompile(`^NC(\d+)ads_A10_v4$`), "A10", 24, 16},
	{regexp.MustCompile(`^NC(\d+)as_T4_v3$`), "T4", 16, 0},
	{regexp.MustCompile(`^NC(\d+)r?s_v3$`), "V100", 16, 0},
	{regexp.MustCompile(`^NC(\d+)adi?s_H100_v5$`), "H100NVL", 94, 0},
	{regexp.MustCompile(`^ND(\d+)amsr_A100_v4$`), "A100", 80, 0},
	{regexp.MustCompile(`^ND(\d+)asr_v4$`), "A100", 40, 0},
	{regexp.MustCompile(`^ND(\d+)rs_v2$`), "V100", 32, 0},
	{regexp.MustCompile(`^ND(\d+)isr_H100_v5$`), "H100", 80, 0},
	{regexp.MustCompile(`^ND(\d+)isr_H200_v5$`), "H200", 141, 0},
	{regexp.MustCompile(`^ND(\d+)isr?_MI300X_v5$`), "MI300X", 192, 0},
	{regexp.MustCompile(`^NV(\d+)adm?s_A10_v5$`), "A10", 24, 36},
	{regexp.MustCompile(`^NG(\d+)adm?s_V620_v1$`), "V620", 32, 32},
	{regexp.MustCompile(`^NV(\d+)as_v4$`), "MI25", 16, 32},
	{regexp.MustCompile(`^NV(\d+)s_v3$`), "M60", 8, 0},
}

// azureGPU is what the name of a type says. It is false for a series that is not known.
func (t *tray) azureGPU(name string) (offer.GPU, bool) {
	size, _ := strings.CutPrefix(name, "Standard_")
	for _, series := range azureSeries {
		m := series.name.FindStringSubmatch(size)
		if m == nil {
			continue
		}
		gib := series.gib
		if n, err := strconv.Atoi(m[1]); err != nil {
			return offer.GPU{}, false
		} else if series.whole > 0 {
			gib *= math.Min(1, float64(n)/float64(series.whole))
		}
		return t.gpu(series.gpu, gib)
	}
	return offer.GPU{}, false
}
