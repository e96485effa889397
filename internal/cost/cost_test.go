package cost

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/backend"
	"dstack/internal/ledger"
)

var epoch = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func hour(n float64) time.Time { return epoch.Add(time.Duration(n * float64(time.Hour))) }

// machineCost is what a machine at $2 an hour costs in some hours.
func machineCost(from, to float64) ledger.Cost {
	return ledger.Cost{Interval: ledger.Interval{Price: 2, From: hour(from), To: hour(to)}, OwnerID: "m", Kind: backend.InstanceResource}
}

func TestSplit(t *testing.T) {
	open := machineCost(0, 10)
	open.Open = true
	disk := machineCost(0, 10)
	disk.Kind = backend.VolumeResource
	for name, tt := range map[string]struct {
		cost  ledger.Cost
		holds []Hold
		want  map[string]float64 // dollars by run
	}{
		"idle":                      {machineCost(0, 10), nil, map[string]float64{"": 20}},
		"held all the time":         {machineCost(0, 10), []Hold{{"a", "m", 1, hour(-1), hour(11)}}, map[string]float64{"a": 20}},
		"still held":                {open, []Hold{{"a", "m", 1, hour(4), time.Time{}}}, map[string]float64{"": 8, "a": 12}},
		"for a while":               {machineCost(0, 10), []Hold{{"a", "m", 1, hour(4), hour(6)}}, map[string]float64{"": 16, "a": 4}},
		"in part":                   {machineCost(0, 10), []Hold{{"a", "m", 0.25, hour(0), hour(10)}}, map[string]float64{"": 15, "a": 5}},
		"by two at a time":          {machineCost(0, 10), []Hold{{"a", "m", 0.5, hour(0), hour(10)}, {"b", "m", 0.5, hour(5), hour(10)}}, map[string]float64{"": 5, "a": 10, "b": 5}},
		"by two jobs of one run":    {machineCost(0, 10), []Hold{{"a", "m", 0.5, hour(0), hour(10)}, {"a", "m", 0.5, hour(5), hour(10)}}, map[string]float64{"": 5, "a": 15}},
		"one after another":         {machineCost(0, 10), []Hold{{"a", "m", 1, hour(0), hour(5)}, {"b", "m", 1, hour(5), hour(10)}}, map[string]float64{"a": 10, "b": 10}},
		"by more than there is":     {machineCost(0, 10), []Hold{{"a", "m", 1, hour(0), hour(10)}, {"b", "m", 1, hour(0), hour(10)}}, map[string]float64{"a": 10, "b": 10}},
		"before there was anything": {machineCost(5, 10), []Hold{{"a", "m", 1, hour(0), hour(5)}}, map[string]float64{"": 10}},
		"a hold that ran backwards": {machineCost(0, 10), []Hold{{"a", "m", 1, hour(6), hour(4)}}, map[string]float64{"": 20}},
		"of another machine":        {machineCost(0, 10), []Hold{{"a", "n", 1, hour(0), hour(10)}}, map[string]float64{"": 20}},
		"nobody holds a disk":       {disk, []Hold{{"a", "m", 1, hour(0), hour(10)}}, map[string]float64{"": 20}},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]float64{}
			for _, p := range Split([]ledger.Cost{tt.cost}, tt.holds) {
				got[p.RunID] += p.USD()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever jobs held, the parts add up to the whole: dollars, hours, and what goes on an hour; in
// all, by run and by day, and no share is negative.
func TestPartsAddUp(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		at := func() time.Time { return hour(r.Float64() * 100) }
		var costs []ledger.Cost
		for n := range 1 + r.IntN(4) {
			for range 1 + r.IntN(3) {
				a, b := at(), at()
				if b.Before(a) {
					a, b = b, a
				}
				c := ledger.Cost{Interval: ledger.Interval{Price: float64(r.IntN(5)), From: a, To: b}, OwnerID: fmt.Sprint("m", n), Kind: backend.InstanceResource}
				c.Open, c.Doubt = r.IntN(3) == 0, r.IntN(4) == 0
				costs = append(costs, c)
			}
		}
		var holds []Hold
		for range r.IntN(30) {
			h := Hold{RunID: fmt.Sprint("r", r.IntN(4)), InstanceID: fmt.Sprint("m", r.IntN(5)), Share: float64(1+r.IntN(4)) / 4, From: at(), To: at()}
			if r.IntN(5) == 0 {
				h.To = time.Time{}
			}
			holds = append(holds, h)
		}
		var want Sum
		for _, p := range Whole(costs) {
			want.add(p)
		}
		var sums Sums[string]
		for _, p := range Split(costs, holds) {
			if p.Share <= 0 || p.Share > 1 || !p.From.Before(p.To) {
				t.Fatalf("seed %d: part %+v", seed, p)
			}
			for day := range Days(p) {
				if day.From.UTC().YearDay() != day.To.Add(-1).UTC().YearDay() {
					t.Fatalf("seed %d: a day from %v to %v", seed, day.From, day.To)
				}
				sums.Add(p.RunID, day)
			}
		}
		for what, pair := range map[string][2]float64{
			"hours": {sums.All.Hours, want.Hours}, "dollars": {sums.All.USD, want.USD},
			"dollars an hour": {sums.All.Hourly, want.Hourly}, "unconfirmed": {sums.All.Unconfirmed, want.Unconfirmed},
		} {
			if math.Abs(pair[0]-pair[1]) > 1e-6 {
				t.Errorf("seed %d: %s of the parts are %v, of the whole %v", seed, what, pair[0], pair[1])
			}
		}
		groups := 0.0
		for _, g := range sums.Groups {
			groups += g.USD
		}
		if math.Abs(groups-want.USD) > 1e-6 {
			t.Errorf("seed %d: the groups cost $%v, the whole $%v", seed, groups, want.USD)
		}
	}
}

func TestDays(t *testing.T) {
	p := Part{Cost: machineCost(22, 50), Share: 0.5}
	p.Open = true
	days := slices.Collect(Days(p))
	if len(days) != 3 {
		t.Fatalf("%d days", len(days))
	}
	for i, want := range []struct {
		usd  float64
		open bool
	}{{2, false}, {24, false}, {2, true}} {
		if got := days[i]; got.USD() != want.usd || got.Open != want.open {
			t.Errorf("day %d costs $%v, goes on: %v; want %+v", i, got.USD(), got.Open, want)
		}
	}
}

func TestSumsAreBounded(t *testing.T) {
	s := Sums[int]{Max: 2}
	p := Part{Cost: machineCost(0, 1), Share: 1}
	for i, want := range []bool{true, true, false} {
		if got := s.Add(i, p); got != want {
			t.Errorf("group %d has room: %v", i, got)
		}
	}
	if !s.Add(1, p) || s.Groups[1].USD != 4 || s.All.USD != 6 {
		t.Errorf("sums %+v, all %+v", s.Groups[1], s.All)
	}
}
