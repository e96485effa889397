package collect

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"dstack/internal/catalog/pricelist"
)

func crusoe() Source {
	return Source{
		Provider: "crusoe", Needs: []string{"CRUSOE_ACCESS_KEY", "CRUSOE_SECRET_KEY", "CRUSOE_PROJECT_ID"}, PerAccount: true, base: "https://api.crusoecloud.com/v1alpha5",
		collect: collectCrusoe, expect: expectation{gpus: []string{"A100"}, noSpot: true},
	}
}

// crusoePrices are US dollars per hour and GPU, which no API tells (catalog 8.10).
var crusoePrices = map[string]float64{
	"A100-PCIe-40GB": 1.45, "A100-PCIe-80GB": 1.65, "A100-SXM-80GB": 1.95, "H100-SXM-80GB": 3.90, "H200-SXM-141GB": 4.29,
	"L40S-48GB": 1.00, "A40-PCIe-48GB": 0.90, "MI300X-192GB": 3.45,
}

// crusoeCPUPrices are per vCPU, by the family of types.
var crusoeCPUPrices = map[string]float64{"c1a": 0.04, "s1a": 0.09}

type crusoeType struct {
	Product string `json:"product_name"`
	GPUs    number `json:"num_gpu"`
	GPU     string `json:"gpu_type"`
	Cores   number `json:"cpu_cores"`
	Memory  number `json:"memory_gb"`
	Disk    number `json:"disk_gb"`
	CPU     string `json:"cpu_type"`
}

type crusoeCapacity struct {
	Type     string
	Location string
	Quantity number
}

func collectCrusoe(ctx context.Context, s *session, t *tray) error {
	var types struct{ Items []crusoeType }
	if err := s.crusoe(ctx, "/projects/"+url.PathEscape(s.env("CRUSOE_PROJECT_ID"))+"/compute/vms/types", &types); err != nil {
		return err
	}
	var capacities struct{ Items []crusoeCapacity }
	if err := s.crusoe(ctx, "/capacities", &capacities); err != nil {
		return err
	}
	return t.crusoe(types.Items, capacities.Items)
}

// crusoe adds the types where there is any capacity.
func (t *tray) crusoe(types []crusoeType, capacities []crusoeCapacity) error {
	where := map[string]map[string]bool{}
	for _, c := range capacities {
		if c.Quantity <= 0 {
			continue
		}
		if where[c.Type] == nil {
			where[c.Type] = map[string]bool{}
		}
		where[c.Type][c.Location] = true
	}
	for _, typ := range types {
		r := pricelist.Row{
			Instance: typ.Product, CPUs: typ.Cores.whole(), MemoryMiB: mib(float64(typ.Memory)), DiskMiB: mib(float64(typ.Disk)), GPUs: typ.GPUs.whole(),
		}
		if typ.CPU == "arm64" {
			r.Arch = "arm"
		}
		if r.GPUs > 0 {
			var gib float64
			_, _ = fmt.Sscanf(typ.GPU[strings.LastIndexAny(typ.GPU, "-_")+1:], "%gGB", &gib) // else the table has it
			price, priced := crusoePrices[typ.GPU]
			var ok bool
			if r.GPU, ok = t.gpu(typ.GPU, gib); !ok {
				continue
			}
			if !priced {
				t.leaveOut(typ.Product)
				continue
			}
			r.Price = math.Round(price*float64(r.GPUs)*100) / 100
		} else {
			family, _, _ := strings.Cut(typ.Product, ".")
			r.Price = math.Round(crusoeCPUPrices[family]*float64(r.CPUs)*100) / 100
			if r.Price == 0 {
				t.leaveOut(typ.Product)
				continue
			}
		}
		if err := t.addIn(r, slices.Sorted(maps.Keys(where[typ.Product]))); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) crusoe(ctx context.Context, path string, into any) error {
	at := s.now.UTC().Format("2006-01-02T15:04:05+00:00")
	u, err := url.Parse(s.base + path)
	if err != nil {
		return fmt.Errorf("sign %s: %w", path, err)
	}
	signature, err := crusoeSignature(s.env("CRUSOE_SECRET_KEY"), u.EscapedPath(), "", http.MethodGet, at)
	if err != nil {
		return err
	}
	return s.get(ctx, path, http.Header{
		"X-Crusoe-Timestamp": {at},
		"Authorization":      {"Bearer 1.0:" + s.env("CRUSOE_ACCESS_KEY") + ":" + signature},
	}, into)
}

// crusoeSignature signs a request with the secret key, which is base64url without padding.
func crusoeSignature(secret, path, query, method, at string) (string, error) {
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(secret, "="))
	if err != nil {
		return "", fmt.Errorf("CRUSOE_SECRET_KEY is not a secret key: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	for _, line := range []string{path, query, method, at} {
		mac.Write([]byte(line + "\n"))
	}
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), nil
}
