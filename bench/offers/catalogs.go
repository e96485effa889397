package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/catalog/pricelist"
)

// providers are the backends whose catalogs the original loads, with its names for them.
var providers = map[string]string{
	"aws": "aws", "azure": "azure", "gcp": "gcp", "oci": "oci", "lambda": "lambdalabs", "nebius": "nebius", "runpod": "runpod", "verda": "verda",
}

const header = "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,gpu_vendor,flags,cpu_arch,provider_data"

// catalogs makes files of so many rows, by provider, in the original's format.
func catalogs(rows int) (map[string][]byte, error) {
	list, err := pricelist.Embedded()
	if err != nil {
		return nil, err
	}
	records := map[string][][]string{}
	n := 0
	for copies := 0; n < rows; copies++ {
		for i := 0; i < list.Len() && n < rows; i++ {
			r := list.Row(i)
			provider, ok := providers[r.Backend]
			if !ok {
				continue
			}
			region := r.Region
			if region == "" {
				region = "anywhere"
			}
			if copies > 0 {
				region += fmt.Sprintf("-copy%d", copies)
			}
			records[provider] = append(records[provider], record(r, region, r.Price*(1+float64(copies)/100)))
			n++
		}
	}
	files := map[string][]byte{}
	for _, provider := range slices.Sorted(maps.Keys(records)) {
		var out bytes.Buffer
		w := csv.NewWriter(&out)
		if err := w.Write(strings.Split(header, ",")); err != nil {
			return nil, err
		}
		if err := w.WriteAll(records[provider]); err != nil {
			return nil, err
		}
		files[provider] = out.Bytes()
	}
	return files, nil
}

func record(r pricelist.Row, region string, price float64) []string {
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	gib := func(mib int) string {
		if mib == 0 {
			return ""
		}
		return number(float64(mib) / 1024)
	}
	spot := "False"
	if r.Spot {
		spot = "True"
	}
	return []string{
		r.Instance, region, number(price), strconv.Itoa(r.CPUs), gib(r.MemoryMiB), strconv.Itoa(r.GPUs), r.GPU.Name, gib(r.GPU.MemoryMiB),
		spot, gib(r.DiskMiB), r.GPU.Vendor, "", r.Arch, "{}",
	}
}
