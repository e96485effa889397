package collect

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"dstack/internal/catalog/pricelist"
)

// aws publishes one file with all prices of EC2. What GPUs a type has is told to accounts only,
// so that without one the list has the types that the program knows; spot prices are told to accounts too.
func aws() Source {
	return Source{
		Provider: "aws", Huge: true, May: []string{awsKey, awsSecret}, With: []string{awsToken}, base: "https://pricing.us-east-1.amazonaws.com", limit: 2 * time.Hour, collect: collectAWS,
		expect: expectation{
			rows: 1000, gpus: []string{"H100", "A100", "A10G", "T4", "L40S", "RTXPRO4500", "RTXPRO6000", "L4"}, cpuOnly: true, noSpot: true,
			regions: []string{"us-east-1", "us-west-2-lax-1"}, spread: map[string]int{"m5.large": 25},
		},
	}
}

// maxAWS bounds the file, in bytes after decompression. It is some 8 GB.
const maxAWS = 64 << 30

func collectAWS(ctx context.Context, s *session, t *tray) error {
	var others *awsOthers
	if s.hasAccount {
		others = &awsOthers{prices: map[string]awsPrices{}}
	}
	err := s.stream(ctx, "/offers/v1.0/aws/AmazonEC2/current/index.csv", nil, func(r io.Reader) error {
		return t.aws(io.LimitReader(r, maxAWS), s.known.Types(t.provider), others)
	})
	if err != nil || !s.hasAccount {
		return err
	}
	found, err := s.account(awsEC2).awsTypes(ctx, others)
	t.awsOthers(others, found)
	return t.doWithout(ctx, err)
}

// awsWanted are the columns that decide whether a row is the plain price of an hour.
var awsWanted = map[string][]string{
	"TermType": {"OnDemand"}, "Tenancy": {"Shared"}, "Operating System": {"Linux"}, "CapacityStatus": {"Used"}, "Unit": {"Hrs"},
	"Currency": {"USD"}, "Pre Installed S/W": {"", "NA"}, "MarketOption": {"OnDemand"},
}

// aws reads the file: five lines about it, a header, and rows. Those of other types than some are kept
// in others, or left out where that is nil.
func (t *tray) aws(r io.Reader, types map[string]pricelist.Row, others *awsOthers) error {
	lines := bufio.NewReaderSize(r, 1<<20)
	for range 5 {
		if _, err := lines.ReadSlice('\n'); err != nil {
			return fmt.Errorf("read the file: %w", noEOF(err))
		}
	}
	rows := csv.NewReader(lines)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if err != nil {
		return fmt.Errorf("read the file: %w", noEOF(err))
	}
	cols := map[string]int{}
	for i, name := range header {
		cols[name] = i
	}
	for _, name := range slices.Concat([]string{"Instance Type", "Region Code", "PricePerUnit", "vCPU", "Memory"}, awsNames()) {
		if _, ok := cols[name]; !ok {
			return fmt.Errorf("%w: there is no column %q", errStrange, name)
		}
	}
	seen := map[[2]string]float64{}
	for n := 1; ; n++ {
		record, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = t.awsRow(func(name string) string {
				if i, ok := cols[name]; ok {
					return record[i]
				}
				return ""
			}, types, others, seen)
		}
		if err != nil {
			if refused, ok := errors.AsType[*pricelist.RowError](err); ok {
				err = refused.Err // which counts the rows that were taken
			}
			return &pricelist.RowError{File: t.provider, Row: n, Err: err}
		}
	}
}

func awsNames() []string {
	var names []string
	for name := range awsWanted {
		names = append(names, name)
	}
	return names
}

func (t *tray) awsRow(cell func(string) string, types map[string]pricelist.Row, others *awsOthers, seen map[[2]string]float64) error {
	for name, values := range awsWanted {
		if !slices.Contains(values, cell(name)) {
			return nil
		}
	}
	r, known := types[cell("Instance Type")]
	if !known {
		if !others.keep(cell) {
			t.leaveOut(cell("Instance Type"))
		}
		return nil
	}
	err := awsPrice(cell, &r)
	if err != nil {
		return err
	}
	if r.Price == 0 { // billed otherwise
		t.free++
		return nil
	}
	k := [2]string{r.Instance, r.Region}
	if old, again := seen[k]; again && old == r.Price {
		return nil
	}
	seen[k] = r.Price
	return t.add(r)
}

// awsPrice reads what a row says of a type: its price, which is 0 for what is billed otherwise, and
// where, and what it has but for GPUs.
func awsPrice(cell func(string) string, r *pricelist.Row) (err error) {
	if r.Price, err = strconv.ParseFloat(cell("PricePerUnit"), 64); err != nil {
		return &pricelist.FieldError{Column: "price", Problem: fmt.Sprintf("%.40q is not a number", cell("PricePerUnit"))}
	}
	if r.Price == 0 {
		return nil
	}
	if r.CPUs, err = strconv.Atoi(cell("vCPU")); err != nil {
		return &pricelist.FieldError{Column: "cpu", Problem: fmt.Sprintf("%.40q is not a whole number", cell("vCPU"))}
	}
	text, _ := strings.CutSuffix(cell("Memory"), " GiB")
	gib, err := strconv.ParseFloat(strings.ReplaceAll(text, ",", ""), 64)
	if err != nil {
		return &pricelist.FieldError{Column: "memory", Problem: fmt.Sprintf("%.40q is not a size", cell("Memory"))}
	}
	r.MemoryMiB, r.Region = mib(gib), strings.Clone(cell("Region Code"))
	return nil
}

// noEOF says that a file ended too early.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
