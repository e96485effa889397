package collect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"dstack/internal/backend"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
	"dstack/internal/nebiusclient"
	billingpb "dstack/internal/nebiusclient/pb/nebius/billing/v1alpha1"
	commonpb "dstack/internal/nebiusclient/pb/nebius/common/v1"
	computepb "dstack/internal/nebiusclient/pb/nebius/compute/v1"
	iamv2pb "dstack/internal/nebiusclient/pb/nebius/iam/v2"
	"dstack/internal/offer"
	"dstack/internal/version"
)

// nebiusRegions are where Nebius has long been, so that a list without them is not whole.
var nebiusRegions = []string{"eu-north1", "eu-west1"}

func nebius() Source {
	return Source{
		Provider: "nebius", Needs: []string{nebiusAccount, nebiusKeyID, nebiusKeyFile}, Instead: []string{nebiusFile, nebiusToken},
		PerAccount: true, // contracts change prices, and regions are those of the tenant's projects
		collect:    collectNebius,
		// RTXPRO6000 and B200 (catalog 9) are only elsewhere, where a tenant need not be.
		expect: expectation{gpus: []string{"L40S", "H100", "H200"}, cpuOnly: true, spot: true, regions: nebiusRegions},
	}
}

const (
	// nebiusPageSize is how many things are asked for at a time.
	nebiusPageSize = 100
	// nebiusPage bounds a page, in bytes, of which things in memory can be fifty times the size,
	// nebiusList a list of all its pages, and nebiusAnswer what is said of one price.
	nebiusPage   = 1 << 20
	nebiusList   = 16 << 20
	nebiusAnswer = 64 << 10
	// nebiusMost bounds the things of a list, and the prices that are asked for.
	nebiusMost = 10_000
	// nebiusAtOnce is how many prices are asked for at a time.
	nebiusAtOnce = 8
)

func collectNebius(ctx context.Context, s *session, t *tray) error {
	credentials, err := nebiusCredentials(s.env)
	if err != nil {
		return err
	}
	client, err := nebiusclient.New(nebiusclient.Config{
		Credentials: credentials, UserAgent: "dstack/" + version.Version, Endpoint: s.base, Dial: s.dial,
		Received: func(bytes int) { s.received.Add(int64(bytes)) },
	})
	if err != nil {
		return err
	}
	err = errors.Join(t.askNebius(ctx, client), client.Close())
	if errors.Is(err, nebiusclient.ErrRefused) {
		return fmt.Errorf("%w: %w", backend.ErrAuth, err)
	}
	return err
}

// askNebius asks for the price of each preset of each platform, in a project of each region.
func (t *tray) askNebius(ctx context.Context, client *nebiusclient.Client) error {
	projects, err := nebiusProjects(ctx, client.Service(nebiusclient.IAM))
	if err != nil {
		return err
	}
	places := nebiusPlaces(projects)
	for _, region := range nebiusRegions {
		if places[region] == "" {
			return fmt.Errorf("the tenant has no project in %s, so that there are no prices of it", region)
		}
	}
	var questions []nebiusQuestion
	for _, region := range slices.Sorted(maps.Keys(places)) {
		platforms, err := nebiusPlatforms(ctx, client.Service(nebiusclient.Compute), places[region])
		if code := status.Code(err); (code == codes.NotFound || code == codes.PermissionDenied) && !slices.Contains(nebiusRegions, region) {
			t.leaveOut("platforms in " + region) // a project that is being deleted, say
			continue
		}
		if err != nil {
			return fmt.Errorf("platforms in %s: %w", printable(region), err)
		}
		for _, p := range platforms {
			if err := nebiusClusters(region, p); err != nil {
				return err
			}
			if questions = append(questions, t.nebiusQuestions(region, places[region], p)...); len(questions) > nebiusMost {
				return fmt.Errorf("%w: it sells more than %d things", errStrange, nebiusMost)
			}
		}
	}
	prices, err := nebiusPrices(ctx, client.Service(nebiusclient.Calculator), questions)
	if err != nil {
		return err
	}
	for i, q := range questions {
		if prices[i] == 0 {
			t.free++
			continue
		}
		q.row.Price = prices[i]
		if err := t.add(q.row); err != nil {
			return err
		}
	}
	return nil
}

// nebiusProjects are those of the one tenant that credentials belong to.
func nebiusProjects(ctx context.Context, iam grpc.ClientConnInterface) ([]*iamv2pb.Project, error) {
	tenants, err := nebiusAll(func(token string) (*iamv2pb.ListTenantsResponse, error) {
		return iamv2pb.NewTenantServiceClient(iam).List(ctx, &iamv2pb.ListTenantsRequest{PageSize: nebiusPageSize, PageToken: token}, grpc.MaxCallRecvMsgSize(nebiusPage))
	})
	if err != nil {
		return nil, fmt.Errorf("tenants: %w", err)
	}
	if len(tenants) != 1 {
		return nil, fmt.Errorf("the credentials see %d tenants, not 1: use those of a service account of one", len(tenants))
	}
	projects, err := nebiusAll(func(token string) (*iamv2pb.ListProjectsResponse, error) {
		return iamv2pb.NewProjectServiceClient(iam).List(ctx, &iamv2pb.ListProjectsRequest{
			ParentId: tenants[0].GetMetadata().GetId(), PageSize: nebiusPageSize, PageToken: token,
		}, grpc.MaxCallRecvMsgSize(nebiusPage))
	})
	if err != nil {
		return nil, fmt.Errorf("projects: %w", err)
	}
	return projects, nil
}

func nebiusPlatforms(ctx context.Context, compute grpc.ClientConnInterface, project string) ([]*computepb.Platform, error) {
	return nebiusAll(func(token string) (*computepb.ListPlatformsResponse, error) {
		return computepb.NewPlatformServiceClient(compute).List(ctx, &computepb.ListPlatformsRequest{
			ParentId: project, PageSize: nebiusPageSize, PageToken: token,
		}, grpc.MaxCallRecvMsgSize(nebiusPage))
	})
}

// aPage is one of a list of things.
type aPage[T any] interface {
	proto.Message
	GetItems() []T
	GetNextPageToken() string
}

// nebiusAll are all things of a list that comes in pages.
func nebiusAll[T any, P aPage[T]](ask func(token string) (P, error)) ([]T, error) {
	var all []T
	token, size := "", 0
	for range maxPages {
		page, err := ask(token)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetItems()...)
		size += proto.Size(page)
		token = page.GetNextPageToken()
		switch {
		case len(all) > nebiusMost:
			return nil, fmt.Errorf("%w: it lists more than %d things", errStrange, nebiusMost)
		case size > nebiusList:
			return nil, fmt.Errorf("%w: it lists more than %d bytes", errStrange, nebiusList)
		case token == "":
			return all, nil
		}
	}
	return nil, fmt.Errorf("%w: there are more than %d pages", errStrange, maxPages)
}

// nebiusPlaces has a project of each region, by region: prices are the same in all of a region. It
// takes one that is in use if there is one.
func nebiusPlaces(projects []*iamv2pb.Project) map[string]string {
	idle := func(p *iamv2pb.Project) int {
		if p.GetStatus().GetProjectState() == iamv2pb.ProjectStatus_ACTIVE {
			return 0
		}
		return 1
	}
	order := slices.SortedFunc(slices.Values(projects), func(a, b *iamv2pb.Project) int {
		return cmp.Or(cmp.Compare(idle(a), idle(b)), cmp.Compare(a.GetMetadata().GetId(), b.GetMetadata().GetId()))
	})
	places := map[string]string{}
	for _, p := range order {
		region := p.GetSpec().GetRegion()
		if _, known := places[region]; !known && region != "" {
			places[region] = p.GetMetadata().GetId()
		}
	}
	return places
}

// nebiusQuestion is a row of which the price is asked for.
type nebiusQuestion struct {
	project, platform, preset string
	row                       pricelist.Row
}

// nebiusQuestions are those of a platform. What has GPUs that are not known is left out.
func (t *tray) nebiusQuestions(region, project string, p *computepb.Platform) []nebiusQuestion {
	platform := p.GetMetadata().GetName()
	var questions []nebiusQuestion
	for _, preset := range p.GetSpec().GetPresets() {
		has := preset.GetResources()
		r := pricelist.Row{
			Instance: platform + " " + preset.GetName(), Region: region,
			CPUs: int(has.GetVcpuCount()), MemoryMiB: int(has.GetMemoryGibibytes()) << 10, GPUs: int(has.GetGpuCount()),
		}
		if r.GPUs > 0 {
			var known bool
			if r.GPU, known = t.nebiusGPU(p); !known {
				continue
			}
			if nebiusSuperchip.MatchString(platform) {
				r.Arch = "arm"
			}
		}
		questions = append(questions, nebiusQuestion{project, platform, preset.GetName(), r})
		if p.GetStatus().GetAllowedForPreemptibles() {
			r.Spot = true
			questions = append(questions, nebiusQuestion{project, platform, preset.GetName(), r})
		}
	}
	return questions
}

var (
	nebiusKind = regexp.MustCompile(`^gpu-([^-]+)`)
	// nebiusSuperchip has a CPU that is not x86: GB200, GH200.
	nebiusSuperchip = regexp.MustCompile(`^gpu-g[bh]\d`)
)

// nebiusGPU is the kind in a platform's name, of the memory that the platform says: gpu-h100-sxm.
func (t *tray) nebiusGPU(p *computepb.Platform) (offer.GPU, bool) {
	platform := p.GetMetadata().GetName()
	m := nebiusKind.FindStringSubmatch(platform)
	if m == nil {
		t.leaveOut(platform)
		return offer.GPU{}, false
	}
	kind := m[1]
	if kind == "rtx6000" { // which others call so is another
		kind = "RTXPRO6000"
	}
	gpu, ok := t.gpu(kind, float64(cmp.Or(p.GetSpec().GetGpuMemoryGigabytes(), p.GetSpec().GetGpuMemoryGibibytes())))
	if !ok {
		return offer.GPU{}, false
	}
	if a, _ := config.FindAccelerator(gpu.Name); !slices.Contains(a.Memory, gpu.MemoryMiB>>10) {
		t.leaveOut(fmt.Sprintf("%s with %d GB", kind, gpu.MemoryMiB>>10))
		return offer.GPU{}, false
	}
	return gpu, true
}

// nebiusClusters checks what must be known of presets whose instances can be connected (catalog 9).
func nebiusClusters(region string, p *computepb.Platform) error {
	if region != "eu-north1" || p.GetMetadata().GetName() != "gpu-h100-sxm" {
		return nil
	}
	for _, preset := range p.GetSpec().GetPresets() {
		switch connected := preset.GetAllowGpuClustering(); {
		case !connected && preset.GetName() == "8gpu-128vcpu-1600gb":
			return fmt.Errorf("%w: gpu-h100-sxm 8gpu-128vcpu-1600gb in eu-north1 has no fabrics", errStrange)
		case connected && strings.HasPrefix(preset.GetName(), "1gpu-"):
			return fmt.Errorf("%w: gpu-h100-sxm %s in eu-north1 has fabrics", errStrange, printable(preset.GetName()))
		}
	}
	return nil
}

// nebiusPrices are the answers to questions, 0 where the calculator has no price.
func nebiusPrices(ctx context.Context, conn grpc.ClientConnInterface, questions []nebiusQuestion) ([]float64, error) {
	calculator := billingpb.NewCalculatorServiceClient(conn)
	prices := make([]float64, len(questions))
	refused := make([]error, len(questions))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(nebiusAtOnce)
	for i, q := range questions {
		g.Go(func() error {
			answer, err := calculator.Estimate(ctx, q.request(), grpc.MaxCallRecvMsgSize(nebiusAnswer))
			if err == nil {
				prices[i], err = nebiusPrice(answer.GetHourlyCost())
			}
			if err != nil {
				err = fmt.Errorf("price of %s in %s: %w", printable(q.row.Instance), printable(q.row.Region), err)
			}
			switch status.Code(err) {
			case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition: // of such a thing it has no price
				refused[i] = err
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if len(refused) > 0 && !slices.Contains(refused, nil) {
		return nil, refused[0] // it is our questions that are wrong
	}
	return prices, nil
}

func (q nebiusQuestion) request() *billingpb.EstimateRequest {
	spec := &computepb.InstanceSpec{Resources: &computepb.ResourcesSpec{Platform: q.platform, Size: &computepb.ResourcesSpec_Preset{Preset: q.preset}}}
	if q.row.Spot {
		spec.Preemptible = &computepb.PreemptibleSpec{}
	}
	return &billingpb.EstimateRequest{ResourceSpec: &billingpb.ResourceSpec{ResourceSpec: &billingpb.ResourceSpec_ComputeInstanceSpec{
		ComputeInstanceSpec: &computepb.CreateInstanceRequest{Metadata: &commonpb.ResourceMetadata{ParentId: q.project}, Spec: spec},
	}}}
}

// decimal is how prices are written.
var decimal = regexp.MustCompile(`^-?\d{1,12}(\.\d{1,30})?$`)

// nebiusPrice is a cost per hour, 0 where there is none.
func nebiusPrice(cost *billingpb.ResourceGroupCost) (float64, error) {
	total := cost.GetGeneral().GetTotal()
	if total == nil {
		return 0, nil
	}
	if !decimal.MatchString(total.GetCost()) {
		return 0, fmt.Errorf("%w: %q is not a price", errStrange, printable(total.GetCost()))
	}
	return strconv.ParseFloat(total.GetCost(), 64)
}
