package collect

import (
	"context"
	"log/slog"

	"dstack/internal/backend"
	"dstack/internal/backend/lambda"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

// lambdaCloud asks the backend: what it offers has the list prices.
func lambdaCloud() Source {
	return Source{
		Provider: lambda.Name, Needs: []string{lambda.KeyVariable}, base: "",
		collect: func(ctx context.Context, s *session, t *tray) error {
			c := &lambda.Config{Creds: lambda.Credentials{APIKey: backend.Secret(s.env(lambda.KeyVariable))}}
			b, err := lambda.Type.Open(ctx, c, backend.Deps{Transport: s.http.Transport, Endpoint: s.base, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				return err
			}
			return t.offers(ctx, b)
		},
		expect: expectation{
			gpus: []string{"A10", "A100", "H100"}, noSpot: true,
			most: []string{
				"asia-northeast-1", "asia-northeast-2", "asia-south-1", "australia-east-1", "europe-central-1", "me-west-1", "us-east-1", "us-east-3",
				"us-midwest-1", "us-south-2", "us-south-3", "us-west-1", "us-west-2", "us-west-3",
			},
		},
	}
}

// offers takes what a backend offers, in every region, whether it can be had now or not.
func (t *tray) offers(ctx context.Context, b backend.Backend) error {
	list, err := b.Offers(ctx, offer.Query{})
	if err != nil {
		return err
	}
	for _, o := range list {
		r := pricelist.Row{
			Instance: o.Instance, Region: o.Region, CPUs: o.Resources.CPUs, MemoryMiB: o.Resources.MemoryMiB, DiskMiB: o.Resources.DiskMiB,
			Arch: o.Resources.Arch, GPUs: len(o.Resources.GPUs), Spot: o.Resources.Spot, Price: o.Price,
		}
		if r.GPUs > 0 {
			var ok bool
			if r.GPU, ok = t.gpu(o.Resources.GPUs[0].Name, float64(o.Resources.GPUs[0].MemoryMiB)/1024); !ok {
				continue
			}
		}
		if err := t.add(r); err != nil {
			return err
		}
	}
	return nil
}
