package collect

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"dstack/internal/catalog/pricelist"
)

// runpod answers questions about prices without a key.
func runpod() Source {
	return Source{
		Provider: "runpod", base: "https://api.runpod.io", collect: collectRunpod,
		expect: expectation{
			gpus: []string{"H100", "A100", "RTX4090"}, names: 8, cpuOnly: true, noSpot: true,
			most: []string{
				"CA-MTL-1", "CA-MTL-2", "CA-MTL-3", "EU-NL-1", "EU-RO-1", "EU-SE-1", "EUR-IS-1", "EUR-IS-2", "US-TX-3", "CA", "CZ", "FR", "US",
			},
		},
		most: answerSize{4 << 20, 100_000}, // one kind in one place for each question
	}
}

// runpodOverview is which kinds there are and where to ask for them.
const runpodOverview = `query { gpuTypes { id memoryInGb maxGpuCount } countryCodes dataCenters { id listed } }`

// runpodPrices are the prices in one place for one number of GPUs.
const runpodPrices = `query ($in: GpuLowestPriceInput) { gpuTypes { id memoryInGb securePrice communityPrice lowestPrice(input: $in) { stockStatus minVcpu minMemory } } }`

// runpodCPUs are the machines without GPUs in one data center.
const runpodCPUs = `query ($in: SpecificsInput) { cpuFlavors { id minVcpu maxVcpu ramMultiplier diskLimitPerVcpu specifics(input: $in) { stockStatus securePrice } } }`

type runpodGPU struct {
	ID        string
	Memory    number  `json:"memoryInGb"`
	Most      number  `json:"maxGpuCount"`
	Secure    *number `json:"securePrice"` // of one GPU
	Community *number `json:"communityPrice"`
	Lowest    *struct {
		Stock  *string `json:"stockStatus"`
		CPUs   *number `json:"minVcpu"`
		Memory *number `json:"minMemory"`
	} `json:"lowestPrice"`
}

type runpodFlavor struct {
	ID        string
	Min       number `json:"minVcpu"`
	Max       number `json:"maxVcpu"`
	RAM       number `json:"ramMultiplier"`    // GB to a vCPU
	Disk      number `json:"diskLimitPerVcpu"` // GB
	Specifics *struct {
		Stock *string `json:"stockStatus"`
		Price *number `json:"securePrice"` // of the smallest size
	}
}

// runpodPlace is a data center, or a country of the community's machines.
type runpodPlace struct {
	name   string
	secure bool
}

// runpodQuestion is one to be asked.
type runpodQuestion struct {
	runpodPlace
	gpus int // 0: machines without
}

type runpodAnswer struct {
	GPUs    []runpodGPU    `json:"gpuTypes"`
	Flavors []runpodFlavor `json:"cpuFlavors"`

	Countries []string `json:"countryCodes"`
	Centers   []struct {
		ID     string
		Listed bool
	} `json:"dataCenters"`
}

func collectRunpod(ctx context.Context, s *session, t *tray) error {
	overview, err := s.runpod(ctx, runpodOverview, nil)
	if err != nil {
		return err
	}
	questions, err := runpodQuestions(overview)
	if err != nil {
		return err
	}
	var mu sync.Mutex // of t, which takes each answer at once: all of them together can be large
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(10)
	for _, q := range questions {
		g.Go(func() error {
			answer, err := s.runpod(ctx, q.text(), q.input())
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			return errors.Join(t.runpodGPUs(q, answer.GPUs), t.runpodCPUs(q, answer.Flavors))
		})
	}
	return g.Wait()
}

// runpodQuestions are all numbers of GPUs in all places.
func runpodQuestions(overview runpodAnswer) ([]runpodQuestion, error) {
	most := 0
	for _, g := range overview.GPUs {
		most = max(most, g.Most.whole())
	}
	var places []runpodPlace
	for _, c := range overview.Centers {
		if c.Listed {
			places = append(places, runpodPlace{c.ID, true})
		}
	}
	for _, code := range overview.Countries {
		if code != "AR" { // nothing there can be rented
			places = append(places, runpodPlace{code, false})
		}
	}
	if most > 64 || len(places) > 300 {
		return nil, fmt.Errorf("%w: %d GPUs in one machine, %d places", errStrange, most, len(places))
	}
	var list []runpodQuestion
	for _, p := range places {
		for n := range most {
			list = append(list, runpodQuestion{p, n + 1})
		}
		if p.secure {
			list = append(list, runpodQuestion{p, 0})
		}
	}
	return list, nil
}

func (q runpodQuestion) text() string {
	if q.gpus == 0 {
		return runpodCPUs
	}
	return runpodPrices
}

func (q runpodQuestion) input() map[string]any {
	switch {
	case q.gpus == 0:
		return map[string]any{"dataCenterId": q.name}
	case q.secure:
		return map[string]any{"gpuCount": q.gpus, "minCudaVersion": "12.8", "secureCloud": true, "dataCenterId": q.name}
	}
	return map[string]any{"gpuCount": q.gpus, "minCudaVersion": "12.8", "secureCloud": false, "countryCode": q.name}
}

// runpod asks one question.
func (s *session) runpod(ctx context.Context, query string, input map[string]any) (runpodAnswer, error) {
	var answer struct {
		Data   *runpodAnswer
		Errors []struct{ Message string }
	}
	question := map[string]any{"query": query}
	if input != nil {
		question["variables"] = map[string]any{"in": input}
	}
	if err := s.post(ctx, "/graphql", nil, question, &answer); err != nil {
		return runpodAnswer{}, err
	}
	if len(answer.Errors) > 0 {
		return runpodAnswer{}, fmt.Errorf("POST /graphql: %s", printable(answer.Errors[0].Message))
	}
	if answer.Data == nil {
		return runpodAnswer{}, fmt.Errorf("POST /graphql: %w: it has no data", errStrange)
	}
	return *answer.Data, nil
}

func (t *tray) runpodGPUs(q runpodQuestion, gpus []runpodGPU) error {
	for _, g := range gpus {
		price := g.Community
		if q.secure {
			price = g.Secure
		}
		l := g.Lowest
		if q.gpus == 0 || l == nil || l.Stock == nil || l.CPUs == nil || l.Memory == nil || price == nil {
			continue
		}
		if *price == 0 {
			t.free++
			continue
		}
		r := pricelist.Row{
			Instance: g.ID, Region: q.name, CPUs: l.CPUs.whole(), MemoryMiB: mib(float64(*l.Memory)), GPUs: q.gpus, Price: float64(*price) * float64(q.gpus),
		}
		var ok bool
		if r.GPU, ok = t.gpu(g.ID, float64(g.Memory)); !ok {
			continue
		}
		if err := t.add(r); err != nil {
			return err
		}
	}
	return nil
}

// maxRunpodCPUs bounds what a flavor may say of itself.
const maxRunpodCPUs = 1024

// runpodCPUs adds the sizes of each flavor: the smallest, doubled up to the largest.
func (t *tray) runpodCPUs(q runpodQuestion, flavors []runpodFlavor) error {
	for _, f := range flavors {
		if f.Specifics == nil || f.Specifics.Stock == nil || f.Specifics.Price == nil {
			continue
		}
		if *f.Specifics.Price == 0 {
			t.free++
			continue
		}
		least, most := f.Min.whole(), f.Max.whole()
		if least < 1 || most < least || most > maxRunpodCPUs {
			t.leaveOut(f.ID)
			continue
		}
		for _, n := range doubled(least, most) {
			memory := math.Trunc(float64(n) * float64(f.RAM))
			err := t.add(pricelist.Row{
				Instance: fmt.Sprintf("%s-%d-%.0f", f.ID, n, memory), Region: q.name, CPUs: n, MemoryMiB: mib(memory),
				DiskMiB: mib(float64(n) * float64(f.Disk)), Price: float64(*f.Specifics.Price) * float64(n) / float64(least),
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// doubled are least, which is above 0, its doubles, and most.
func doubled(least, most int) []int {
	var list []int
	for n := least; n < most; n *= 2 {
		list = append(list, n)
	}
	return slices.Compact(append(list, most))
}
