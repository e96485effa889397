package collect

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dstack/internal/catalog/pricelist"
)

// azure publishes retail prices. What types have is told to accounts only, so that without one the list
// has those that the program knows, in the regions that it knows.
func azure() Source {
	return Source{
		Provider: "azure", May: []string{azureSubscription, azureTenant, azureClient, azureSecret}, base: "https://prices.azure.com", collect: collectAzure,
		most:   answerSize{4 << 20, 100_000}, // a page has a thousand prices of some twenty values
		expect: expectation{rows: 1000, gpus: []string{"A100", "A10", "H100NVL"}, cpuOnly: true, spot: true, regions: []string{"eastus"}, spread: map[string]int{"Standard_D2s_v6": 30}},
	}
}

// azurePage is at most this many prices.
const azurePage = 1000

type azurePrice struct {
	SKU     string    `json:"armSkuName"`
	Region  string    `json:"armRegionName"`
	Price   number    `json:"retailPrice"`
	Meter   string    `json:"meterName"`
	Product string    `json:"productName"`
	Unit    string    `json:"unitOfMeasure"`
	Coin    string    `json:"currencyCode"`
	Since   time.Time `json:"effectiveStartDate"`
}

func collectAzure(ctx context.Context, s *session, t *tray) error {
	types, regions := s.known.Types(t.provider), s.known.Regions(t.provider)
	if s.hasAccount {
		found, err := s.azureTypes(ctx)
		if err := t.doWithout(ctx, err); err != nil {
			return err
		}
		t.azureTypes(types, found.types)
		regions = both(regions, slices.Collect(maps.Keys(found.regions)))
	}
	valid := azureValid{}
	var mu sync.Mutex // of t and valid
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, region := range regions {
		g.Go(func() error {
			return s.azure(ctx, region, func(page []azurePrice) error {
				mu.Lock()
				defer mu.Unlock()
				return t.azurePage(valid, region, page, types, s.now)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return t.azure(valid, types, s.known.Types(t.provider))
}

// azure reads the prices of one region, page by page.
func (s *session) azure(ctx context.Context, region string, take func(page []azurePrice) error) error {
	filter := "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and contains(productName, 'Windows') eq false and " +
		"contains(productName, 'Dedicated') eq false and contains(meterName, 'Low Priority') eq false and armRegionName eq '" + region + "'"
	for n := range maxPages {
		var page struct{ Items []azurePrice }
		path := fmt.Sprintf("/api/retail/prices?$filter=%s&$skip=%d", url.QueryEscape(filter), n*azurePage)
		if err := s.get(ctx, path, nil, &page); err != nil {
			return err
		}
		switch {
		case len(page.Items) == 0:
			return nil
		case len(page.Items) > azurePage:
			return fmt.Errorf("%w: a page has more than %d prices", errStrange, azurePage)
		}
		if err := take(page.Items); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: there are more than %d pages for %s", errStrange, maxPages, region)
}

// azurePlace is what has one price at a time.
type azurePlace struct {
	sku, region string
	spot        bool
}

// azureValid is the price of each place that counts of those seen.
type azureValid map[azurePlace]azureSince

// azureSince is a price and the day since when it counts.
type azureSince struct {
	usd   float64
	since time.Time
}

// azurePage keeps the prices that count now: of several the one since the latest day, and of
// those that began at once the highest, to promise nothing.
func (t *tray) azurePage(valid azureValid, region string, page []azurePrice, types map[string]pricelist.Row, now time.Time) error {
	for _, p := range page {
		r, known := types[p.SKU]
		switch {
		case p.SKU == "" || p.Region != region || p.Since.After(now) || p.Unit != "1 Hour" || p.Coin != "USD" || strings.Contains(p.Product, "CloudServices"):
			continue
		case !known:
			t.leaveOut(p.SKU)
			continue
		case p.Price == 0:
			t.free++
			continue
		}
		k := azurePlace{r.Instance, region, strings.Contains(p.Meter, "Spot")}
		old, again := valid[k]
		switch usd := float64(p.Price); {
		case !again && len(valid) == pricelist.MaxRows:
			return fmt.Errorf("%w: it lists more than %d prices", errStrange, pricelist.MaxRows)
		case !again || p.Since.After(old.since) || p.Since.Equal(old.since) && usd > old.usd:
			valid[k] = azureSince{usd, p.Since}
		}
	}
	return nil
}

// azure adds what costs something. What is wrong with types that the program does not know leaves those out.
func (t *tray) azure(valid azureValid, types, known map[string]pricelist.Row) error {
	byName := func(a, b azurePlace) int {
		return strings.Compare(a.sku+" "+a.region+fmt.Sprint(a.spot), b.sku+" "+b.region+fmt.Sprint(b.spot))
	}
	for _, k := range slices.SortedFunc(maps.Keys(valid), byName) {
		r := types[k.sku]
		r.Region, r.Spot, r.Price = k.region, k.spot, valid[k].usd
		if _, ours := known[k.sku]; !ours {
			t.addMore(r)
		} else if err := t.add(r); err != nil {
			return err
		}
	}
	return nil
}
