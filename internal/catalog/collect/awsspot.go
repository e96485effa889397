package collect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"golang.org/x/sync/errgroup"

	"dstack/internal/backend"
	"dstack/internal/catalog/pricelist"
)

// awsSpot has the spot prices that EC2 tells an account (ec2:DescribeRegions,
// ec2:DescribeSpotPriceHistory), of the types that the program knows, in the regions that the
// account has.
func awsSpot() Source {
	return Source{
		Provider: "aws", Spot: true, Needs: []string{awsKey, awsSecret}, With: []string{awsToken}, base: awsEC2, collect: collectAWSSpot,
		expect: expectation{rows: 20, noOther: true, regions: []string{awsHome}},
	}
}

const (
	awsKey, awsSecret, awsToken = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
	// awsHome is the region that every account has.
	awsHome = "us-east-1"
	// awsEC2 is where EC2 answers, in the region that stands for regionMark.
	awsEC2     = "https://ec2." + regionMark + ".amazonaws.com"
	regionMark = "{region}"
	// awsTypes is how many types are asked for at a time: they are in the URL.
	awsTypes = 100
	// maxElements bounds an answer before it is decoded: a thousand prices have six each.
	maxElements = 50_000
	// ec2Version is that of the API's documents.
	ec2Version = "2016-11-15"
)

func collectAWSSpot(ctx context.Context, s *session, t *tray) error {
	types := s.known.Types(t.provider)
	regions, err := s.awsRegions(ctx)
	if err != nil {
		return err
	}
	prices := make([]map[string]float64, len(regions))
	silent := make([]error, len(regions))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, region := range regions {
		g.Go(func() (err error) {
			prices[i], err = s.awsSpotPrices(ctx, region, types)
			if err != nil && !errors.Is(err, errStrange) && ctx.Err() == nil {
				silent[i], err = err, nil // a region that is out of reach is missing, not all of them
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if i := slices.IndexFunc(silent, func(err error) bool { return err != nil }); i >= 0 && !slices.ContainsFunc(prices, func(some map[string]float64) bool { return len(some) > 0 }) {
		return silent[i] // of all, the same most likely
	}
	for i, region := range regions {
		if silent[i] != nil {
			t.leaveOut("region " + region)
		}
		if err := t.awsSpot(region, prices[i], types); err != nil {
			return err
		}
	}
	return nil
}

// awsSpotPrice is what a type costs in one zone.
type awsSpotPrice struct {
	Type  string `xml:"instanceType"`
	Price string `xml:"spotPrice"`
	Zone  string `xml:"availabilityZone"`
}

// awsSpot adds the types of a region.
func (t *tray) awsSpot(region string, prices map[string]float64, types map[string]pricelist.Row) error {
	for _, name := range slices.Sorted(maps.Keys(prices)) {
		r := types[name]
		r.Region, r.Spot, r.Price = region, true, prices[name]
		if err := t.add(r); err != nil {
			return err
		}
	}
	return nil
}

// awsRegions are those that the account may use.
func (s *session) awsRegions(ctx context.Context) ([]string, error) {
	var answer struct {
		Regions []string `xml:"regionInfo>item>regionName"`
	}
	if err := s.ec2(ctx, awsHome, url.Values{"Action": {"DescribeRegions"}}, &answer); err != nil {
		return nil, err
	}
	if len(answer.Regions) > maxAWSRegions {
		return nil, fmt.Errorf("%w: there are more than %d regions", errStrange, maxAWSRegions)
	}
	for _, name := range answer.Regions {
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(name) > 40 || name == "" { // it becomes part of a host's name
			return nil, fmt.Errorf("%w: %.40q is not a region", errStrange, name)
		}
	}
	return answer.Regions, nil
}

// awsSpotPrices are those of some types in a region now, of each the price of its cheapest zone.
func (s *session) awsSpotPrices(ctx context.Context, region string, types map[string]pricelist.Row) (map[string]float64, error) {
	least := map[string]float64{}
	for some := range slices.Chunk(slices.Sorted(maps.Keys(types)), awsTypes) {
		now := s.now.UTC().Format(time.RFC3339)
		q := url.Values{
			"Action": {"DescribeSpotPriceHistory"}, "ProductDescription.1": {"Linux/UNIX"}, "MaxResults": {"1000"},
			"StartTime": {now}, "EndTime": {now}, // the prices that are valid then
		}
		for i, name := range some {
			q.Set("InstanceType."+strconv.Itoa(i+1), name)
		}
		for page := 0; ; page++ {
			var answer struct {
				Prices []awsSpotPrice `xml:"spotPriceHistorySet>item"`
				Next   string         `xml:"nextToken"`
			}
			if err := s.ec2(ctx, region, q, &answer); err != nil {
				return nil, err
			}
			for _, p := range answer.Prices {
				usd, err := strconv.ParseFloat(p.Price, 64)
				if err != nil {
					return nil, fmt.Errorf("%w: the price %.40q of %.40q in %s is not a number", errStrange, p.Price, p.Type, region)
				}
				r, asked := types[p.Type]
				if old, again := least[p.Type]; asked && (!again || usd < old) {
					least[r.Instance] = usd
				}
			}
			if answer.Next == "" {
				break
			}
			if page == maxPages {
				return nil, fmt.Errorf("%w: there are more than %d pages for %s", errStrange, maxPages, region)
			}
			q.Set("NextToken", answer.Next)
		}
	}
	return least, nil
}

// ec2 asks a signed question.
func (s *session) ec2(ctx context.Context, region string, q url.Values, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("no answer in %v", answerLimit))
	defer cancel()
	q.Set("Version", ec2Version)
	address := strings.ReplaceAll(s.base, regionMark, region) + "/?" + q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", q.Get("Action"), region, err)
	}
	nothing := sha256.Sum256(nil)
	creds := awssdk.Credentials{AccessKeyID: s.env(awsKey), SecretAccessKey: s.env(awsSecret), SessionToken: s.env(awsToken)}
	if err := v4.NewSigner().SignHTTP(ctx, creds, req, hex.EncodeToString(nothing[:]), "ec2", region, time.Now()); err != nil {
		return fmt.Errorf("%s in %s: %w", q.Get("Action"), region, err)
	}
	resp, err := s.do(req)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", q.Get("Action"), region, err)
	}
	defer resp.Body.Close()
	data, err := backend.ReadBody(resp, s.most.bytes)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", q.Get("Action"), region, err)
	}
	if n := bytes.Count(data, []byte("<")); n > 2*maxElements {
		return fmt.Errorf("%s in %s: %w: it has more than %d elements", q.Get("Action"), region, errStrange, maxElements)
	}
	if err := xml.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s in %s: %w: %w", q.Get("Action"), region, errStrange, err)
	}
	return nil
}
