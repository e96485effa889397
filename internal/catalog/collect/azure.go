package collect

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"dstack/internal/catalog/pricelist"
)

// azure publishes retail prices. What types have is told to accounts only, so that the list
// has those that the program knows.
func azure() Source {
	return Source{
		Provider: "azure", base: "https://prices.azure.com", collect: collectAzure,
		expect: expectation{rows: 1000, gpus: []string{"A100", "A10", "H100NVL"}, cpuOnly: true, spot: true, regions: []string{"eastus"}},
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
	regions := s.known.Regions(t.provider)
	prices := make([][]azurePrice, len(regions))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, region := range regions {
		g.Go(func() (err error) {
			prices[i], err = s.azure(ctx, region)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return t.azure(slices.Concat(prices...), s.known.Types(t.provider), s.now)
}

// azure reads the prices of one region.
func (s *session) azure(ctx context.Context, region string) ([]azurePrice, error) {
	filter := "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and contains(productName, 'Windows') eq false and " +
		"contains(productName, 'Dedicated') eq false and contains(meterName, 'Low Priority') eq false and armRegionName eq '" + region + "'"
	var all []azurePrice
	for n := range maxPages {
		var page struct{ Items []azurePrice }
		path := fmt.Sprintf("/api/retail/prices?$filter=%s&$skip=%d", url.QueryEscape(filter), n*azurePage)
		if err := s.get(ctx, path, nil, &page); err != nil {
			return nil, err
		}
		if len(page.Items) == 0 {
			return all, nil
		}
		all = append(all, page.Items...)
	}
	return nil, fmt.Errorf("%w: there are more than %d pages for %s", errStrange, maxPages, region)
}

// azurePlace is what has one price at a time.
type azurePlace struct {
	sku, region string
	spot        bool
}

// azure takes the price that counts now: of several the one since the latest day, and of those
// that began at once the highest, to promise nothing.
func (t *tray) azure(prices []azurePrice, types map[string]pricelist.Row, now time.Time) error {
	valid := map[azurePlace]azurePrice{}
	for _, p := range prices {
		r, known := types[p.SKU]
		switch {
		case p.SKU == "" || p.Price == 0 || p.Since.After(now) || p.Unit != "1 Hour" || p.Coin != "USD" || strings.Contains(p.Product, "CloudServices"):
			continue
		case !known:
			t.leaveOut(p.SKU)
			continue
		}
		k := azurePlace{r.Instance, p.Region, strings.Contains(p.Meter, "Spot")}
		old, again := valid[k]
		if !again || p.Since.After(old.Since) || p.Since.Equal(old.Since) && p.Price > old.Price {
			valid[k] = p
		}
	}
	byName := func(a, b azurePlace) int {
		return strings.Compare(a.sku+" "+a.region+fmt.Sprint(a.spot), b.sku+" "+b.region+fmt.Sprint(b.spot))
	}
	for _, k := range slices.SortedFunc(maps.Keys(valid), byName) {
		r := types[k.sku]
		r.Region, r.Spot, r.Price = k.region, k.spot, float64(valid[k].Price)
		if err := t.add(r); err != nil {
			return err
		}
	}
	return nil
}
