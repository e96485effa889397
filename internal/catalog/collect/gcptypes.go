package collect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
	"dstack/internal/gcpclient"
)

const (
	// gcpKeyFile is where Google's programs look for the key of a service account.
	gcpKey, gcpKeyFile, gcpProject = "GCP_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "GCP_PROJECT_ID"

	gcpLogin   = "https://oauth2.googleapis.com"
	gcpCompute = "https://compute.googleapis.com"
	gcpTPUs    = "https://tpu.googleapis.com"
	// gcpScope allows to ask anything that the account may.
	gcpScope = "https://www.googleapis.com/auth/cloud-platform"

	// maxGCPKinds and maxGCPZones bound what is made of the answers. Google has a thousand types, and some
	// hundred zones.
	maxGCPKinds, maxGCPZones = 5000, 300
	// gcpAtOnce is how many zones are asked for TPUs at a time, and gcpTPULimit how long all of them may take.
	gcpAtOnce   = 8
	gcpTPULimit = time.Minute
)

var (
	// gcpZone is how zones are called, after the name of their region.
	gcpZone        = regexp.MustCompile(`^([a-z]{1,20}-[a-z]{1,20}[0-9]{1,2})-[a-z0-9]{1,10}$`)
	gcpTypeName    = regexp.MustCompile(`^[a-z0-9-]{1,60}$`)
	gcpProjectName = regexp.MustCompile(`^[a-z0-9.:-]{1,100}$`)
	// gcpFamilies are the types without GPUs that are of use (catalog 8.3, 11).
	gcpFamilies = regexp.MustCompile(`^(m4|c4|n4|h3|h4d|n2|e2-standard|e2-highmem|e2-highcpu|m1|a2|g2)-|^e2-medium$`)
	// gcpSpotOnly are types that nobody can buy on demand (catalog 8.3).
	gcpSpotOnly = regexp.MustCompile(`^(a4x-|a4-|a3-ultragpu-|a3-highgpu-[124]g$)`)
)

// gcpTypes asks for the types that the project can have (compute.machineTypes.list,
// compute.acceleratorTypes.list, tpu.locations.list, tpu.acceleratortypes.list).
func (s *session) gcpTypes(ctx context.Context, t *tray) (*gcpFound, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, accountLimit, fmt.Errorf("it took longer than %v", accountLimit))
	defer cancel()
	project := s.env(gcpProject)
	if !gcpProjectName.MatchString(project) {
		return nil, fmt.Errorf("%s is not the id of a project", gcpProject)
	}
	token, err := s.gcpToken(ctx)
	if err != nil {
		return nil, err
	}
	compute, tpus := s.account(gcpCompute), s.account(gcpTPUs)
	compute.most = answerSize{maxAnswer, maxItems} // a page has some hundred types
	tpus.most = answerSize{1 << 20, 20_000}        // of one zone
	found := newGCPFound()
	bases, err := compute.gcpMachines(ctx, token, project, t, found)
	if err != nil {
		return nil, err
	}
	if err := compute.gcpAttached(ctx, token, project, t, bases, found); err != nil {
		return nil, err
	}
	whole := maps.Clone(found.where)
	err = tpus.gcpTPUs(ctx, token, project, found)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		found.where = whole
		t.leaveOut("zones of TPUs") // the API of TPUs is one that few projects have switched on
	}
	return found, nil
}

// gcpToken lets the service account in whose key the credentials are.
func (s *session) gcpToken(ctx context.Context) (string, error) {
	file, err := readSecret(s.env(gcpKeyFile))
	if err != nil {
		return "", fmt.Errorf("%s: %w", gcpKeyFile, err)
	}
	account, err := gcpclient.ParseServiceAccount(file)
	if errors.Is(err, gcpclient.ErrNotServiceAccount) {
		err = fmt.Errorf("%w: %w", ErrOtherCredentials, err)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", gcpKeyFile, err)
	}
	login := s.account(gcpLogin)
	assertion, err := account.Assertion(gcpScope, login.base+"/token", time.Now())
	if err != nil {
		return "", err
	}
	s.secrets.hide(assertion)
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	return login.token(ctx, "/token", form)
}

// gcpMachine is a type of machines in a zone.
type gcpMachine struct {
	Name         string
	CPUs         number `json:"guestCpus"`
	MiB          number `json:"memoryMb"`
	Deprecated   struct{ State string }
	Arch         string `json:"architecture"`
	Accelerators []struct {
		Type  string `json:"guestAcceleratorType"`
		Count number `json:"guestAcceleratorCount"`
	}
	SSDs struct {
		Count number `json:"partitionCount"`
	} `json:"bundledLocalSsds"`
}

// gcpMachines finds the types of machines as they are. Those to which GPUs can be attached it returns.
func (s *session) gcpMachines(ctx context.Context, token, project string, t *tray, found *gcpFound) (*gcpFound, error) {
	type page struct {
		gcpNext
		Items map[string]struct {
			Types []gcpMachine `json:"machineTypes"`
		}
	}
	bases := newGCPFound()
	known := s.known.Types(t.provider)
	path := "/compute/v1/projects/" + url.PathEscape(project) + "/aggregated/machineTypes?maxResults=500&returnPartialSuccess=true"
	return bases, gcpPages(ctx, s, path, bearer(token), func(p page) error {
		for _, place := range slices.Sorted(maps.Keys(p.Items)) {
			zone, ok := gcpZoneOf(place)
			if !ok {
				continue
			}
			some := p.Items[place]
			for _, m := range some.Types {
				if !gcpTypeName.MatchString(m.Name) || gcpGone(m.Deprecated.State) {
					continue
				}
				to := found
				r, ok := known[m.Name]
				if !ok {
					r, ok = t.gcpRow(m)
				}
				if ok && strings.HasPrefix(m.Name, "n1-") {
					to = bases
				} else if !ok || r.GPUs == 0 && !gcpFamilies.MatchString(m.Name) {
					t.leaveOut(m.Name)
					continue
				}
				if err := to.add(r, zone); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// gcpGone says of a state that there is nothing new of that.
func gcpGone(state string) bool { return state != "" && state != "ACTIVE" }

// gcpZoneOf is the zone in the key of a list of things by place.
func gcpZoneOf(place string) (zone string, ok bool) {
	zone, ok = strings.CutPrefix(place, "zones/")
	return zone, ok && gcpZone.MatchString(zone)
}

// gcpAccelerators are the GPUs that types have, with their memory in GiB (catalog 8.3, 11).
var gcpAccelerators = map[string]struct {
	gpu string
	gib float64
}{
	"nvidia-b200": {"B200", 180}, "nvidia-gb200": {"GB200", 186}, "nvidia-h200-141gb": {"H200", 141}, "nvidia-a100-80gb": {"A100", 80}, "nvidia-h100-80gb": {"H100", 80}, "nvidia-h100-mega-80gb": {"H100", 80},
	"nvidia-l4": {"L4", 24}, "nvidia-tesla-a100": {"A100", 40}, "nvidia-rtx-pro-6000": {"RTXPRO6000", 96},
}

// gcpRow is what a type has that the program does not know. It is false for what no list can say, or what
// has something whose price is not known.
func (t *tray) gcpRow(m gcpMachine) (pricelist.Row, bool) {
	r := pricelist.Row{Instance: m.Name, CPUs: m.CPUs.whole(), MemoryMiB: m.MiB.whole()}
	if m.Arch == "ARM64" {
		r.Arch = "arm"
	}
	unknownSSD := (m.SSDs.Count != 0 || strings.HasSuffix(m.Name, "-lssd")) && gcpBundledSSD(m.Name) == 0
	if len(m.Accelerators) == 0 {
		return r, !unknownSSD && r.CPUs > 0 && r.MemoryMiB > 0
	}
	a, known := gcpAccelerators[m.Accelerators[0].Type]
	if !known || len(m.Accelerators) > 1 || unknownSSD && !gcpSliced[a.gpu] {
		return r, false
	}
	r.GPUs = m.Accelerators[0].Count.whole()
	r.GPU, known = t.gpu(a.gpu, a.gib)
	if a.gpu == "RTXPRO6000" && r.CPUs < 48*r.GPUs { // smaller machines have a part of one
		return r, false
	}
	return r, known && r.GPUs > 0 && r.CPUs > 0 && r.MemoryMiB > 0
}

// gcpLimit is how large a machine may be for some GPUs, in CPUs and GiB.
type gcpLimit struct{ cpus, gib int }

// gcpAttachable are the GPUs that can be attached to machines, and what those may have with 1, 2, 4 and 8 of
// them (catalog 8.3).
var gcpAttachable = map[string]struct {
	gpu    string
	gib    float64
	limits []gcpLimit
}{
	"nvidia-tesla-p100": {"P100", 16, []gcpLimit{{16, 104}, {32, 208}, {96, 624}}},
	"nvidia-tesla-t4":   {"T4", 16, []gcpLimit{{48, 312}, {48, 312}, {96, 624}}},
	"nvidia-tesla-v100": {"V100", 16, []gcpLimit{{12, 78}, {24, 156}, {48, 312}, {96, 624}}},
}

// gcpAttached finds the machines with GPUs that can be attached to bases where there are both.
func (s *session) gcpAttached(ctx context.Context, token, project string, t *tray, bases, found *gcpFound) error {
	type page struct {
		gcpNext
		Items map[string]struct {
			Types []struct {
				Name       string
				Deprecated struct{ State string }
			} `json:"acceleratorTypes"`
		}
	}
	path := "/compute/v1/projects/" + url.PathEscape(project) + "/aggregated/acceleratorTypes?maxResults=500&returnPartialSuccess=true"
	where := map[string]gcpZones{}
	err := gcpPages(ctx, s, path, bearer(token), func(p page) error {
		for place, some := range p.Items {
			zone, ok := gcpZoneOf(place)
			if !ok || !bases.all[zone] {
				continue
			}
			for _, a := range some.Types {
				if _, known := gcpAttachable[a.Name]; !known || gcpGone(a.Deprecated.State) {
					continue
				}
				if where[a.Name] == nil {
					where[a.Name] = gcpZones{}
				}
				where[a.Name][zone] = true
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, zones := range where {
		attached := gcpAttachable[name]
		gpu, known := t.gpu(attached.gpu, attached.gib)
		if !known {
			continue
		}
		for i, limit := range attached.limits {
			for zone := range zones {
				if err := bases.attach(gpu, 1<<i, limit, zone, found); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// gcpTPUs finds the TPUs that the program knows. Zones that do not answer are passed over; it is an error when
// none does.
func (s *session) gcpTPUs(ctx context.Context, token, project string, found *gcpFound) error {
	ctx, cancel := context.WithTimeout(ctx, gcpTPULimit)
	defer cancel()
	type locations struct {
		gcpNext
		Locations []struct {
			Zone string `json:"locationId"`
		}
	}
	type accelerators struct {
		gcpNext
		Types []struct{ Type string } `json:"acceleratorTypes"`
	}
	zones, header := gcpZones{}, bearer(token)
	base := "/v2/projects/" + url.PathEscape(project) + "/locations"
	err := gcpPages(ctx, s, base+"?pageSize=500", header, func(p locations) error {
		for _, l := range p.Locations {
			if gcpZone.MatchString(l.Zone) {
				zones[l.Zone] = true
			}
		}
		if len(zones) > maxGCPZones {
			return fmt.Errorf("%w: there are more than %d zones", errStrange, maxGCPZones)
		}
		return nil
	})
	if err != nil {
		return err
	}
	known := s.known.Types("gcp")
	var mu sync.Mutex // of what follows
	var silent error
	answered := false
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(gcpAtOnce)
	for _, zone := range slices.Sorted(maps.Keys(zones)) {
		g.Go(func() error {
			there := map[string]bool{}
			err := gcpPages(ctx, s, base+"/"+zone+"/acceleratorTypes?pageSize=1000", header, func(p accelerators) error {
				for _, a := range p.Types {
					if _, isTPU := config.ParseTPU(a.Type); isTPU && known[a.Type].Instance != "" {
						there[a.Type] = true
					}
				}
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = err
				return ctx.Err()
			}
			answered = true
			for name := range there {
				if err := found.add(known[name], zone); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil || answered {
		return err
	}
	return silent
}
