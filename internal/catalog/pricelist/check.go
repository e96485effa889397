package pricelist

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"dstack/internal/config"
	"dstack/internal/offer"
)

// A FieldError says which column of a row is wrong, by its name in a catalog file, and how.
type FieldError struct{ Column, Problem string }

func (e *FieldError) Error() string { return e.Column + ": " + e.Problem }

// What a row may say. Nothing that is sold comes near.
const (
	maxName  = 200 // bytes
	minPrice = 0.0001
	maxPrice = offer.MaxPrice
	maxCPUs  = 100_000
	maxMiB   = 1 << 40 // an exbibyte
	maxGPUs  = 128
)

// check says what is wrong with a row (catalog 9), nil if nothing is.
func check(r Row) error {
	bad := func(column, format string, args ...any) error {
		return &FieldError{column, fmt.Sprintf(format, args...)}
	}
	switch {
	case !slices.Contains(Providers(), r.Backend):
		return bad("provider", "%.40q is not one of %s", r.Backend, strings.Join(Providers(), ", "))
	case !isName(r.Instance):
		return bad("instance_name", "%.40q is not a name of 1 to %d bytes", r.Instance, maxName)
	case r.Region != "" && !isName(r.Region):
		return bad("location", "%.40q is not a name of 1 to %d bytes", r.Region, maxName)
	case r.Zone != "" && (!isName(r.Zone) || r.Region == ""):
		return bad("location", "%.40q is not a zone", r.Zone)
	case math.IsNaN(r.Price) || r.Price < minPrice || r.Price > maxPrice:
		return bad("price", "%v is not %v to %d US dollars per hour", r.Price, minPrice, maxPrice)
	case r.CPUs <= 0 || r.CPUs > maxCPUs:
		return bad("cpu", "%d is not 1 to %d", r.CPUs, maxCPUs)
	case r.MemoryMiB <= 0 || r.MemoryMiB > maxMiB:
		return bad("memory", "%d MiB is not 1 to %d", r.MemoryMiB, maxMiB)
	case r.DiskMiB < 0 || r.DiskMiB > maxMiB:
		return bad("disk_size", "%d MiB is not 0 to %d", r.DiskMiB, maxMiB)
	case r.Arch != "x86" && r.Arch != "arm":
		return bad("cpu_arch", "%.40q is not x86 or arm", r.Arch)
	case r.GPUs < 0 || r.GPUs > maxGPUs:
		return bad("gpu_count", "%d is not 0 to %d", r.GPUs, maxGPUs)
	case r.GPUs == 0 && r.GPU != offer.GPU{}:
		return bad("gpu_count", "is 0, but there is a GPU %.40q", r.GPU.Name)
	case r.GPUs > 0 && config.GPUVendorOf(r.GPU.Name) == "":
		return bad("gpu_name", "%.40q is not a known accelerator", r.GPU.Name)
	case r.GPUs > 0 && r.GPU.Vendor != config.GPUVendorOf(r.GPU.Name):
		return bad("gpu_vendor", "%.40q does not make %s", r.GPU.Vendor, r.GPU.Name)
	case r.GPUs > 0 && (r.GPU.MemoryMiB <= 0 || r.GPU.MemoryMiB > maxMiB):
		return bad("gpu_memory", "%d MiB is not 1 to %d", r.GPU.MemoryMiB, maxMiB)
	case !isDate(r.AsOf):
		return bad("as_of", "%.40q is not a day, month or year as in 2026-08-03", r.AsOf)
	}
	return nil
}

// isName keeps characters that would reach terminals and change what they show out of names:
// control characters, and those of format, which turn the direction of a text or are not seen.
func isName(s string) bool {
	if s == "" || len(s) > maxName || !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if c < ' ' || c >= 0x7f && c < 0xa0 || c == '\u2028' || c == '\u2029' || unicode.Is(unicode.Cf, c) {
			return false
		}
	}
	return true
}

// dateForms are those of dates of [Row], by their length.
var dateForms = map[int]string{4: "2006", 7: "2006-01", 10: "2006-01-02"}

// isDate tells whether s is a date of [Row].
func isDate(s string) bool {
	form, known := dateForms[len(s)]
	if !known {
		return false
	}
	_, err := time.Parse(form, s)
	return err == nil
}

// Ahead tells whether a date of [Row] lies more than a day after now: of two clocks, one may be in
// another time zone.
func Ahead(date string, now time.Time) bool {
	tomorrow := now.UTC().AddDate(0, 0, 1).Format("2006-01-02")
	return date > tomorrow[:min(len(date), len(tomorrow))]
}
