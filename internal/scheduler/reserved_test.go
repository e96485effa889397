package scheduler

import (
	"fmt"
	"strings"
	"testing"

	"dstack/internal/api"
)

// in is an offer of which a reservation has room in zones: "z1:2 z2:0".
func in(o api.InstanceOffer, reservation, text string) api.InstanceOffer {
	for part := range strings.FieldsSeq(text) {
		r := api.Room{Reservation: reservation}
		zone, left, _ := strings.Cut(part, ":")
		if _, err := fmt.Sscan(left, &r.Left); err != nil {
			panic(err)
		}
		r.Zone = zone
		o.Rooms = append(o.Rooms, r)
	}
	return o
}

func reserved(g Gang, name string) Gang {
	for i := range g.Jobs {
		g.Jobs[i].Requirements.Reservation = &name
	}
	return g
}

func growing() Fleet {
	f := cluster("f")
	f.Room = -1
	return f
}

func TestPlaceInReservations(t *testing.T) {
	zoned := func(o api.InstanceOffer) api.InstanceOffer {
		o.AvailabilityZones = []string{"z1", "z2", "z3"}
		return o
	}
	big, small := zoned(machine("b", "us", 8, 20)), zoned(machine("b", "us", 1, 2))
	away := func(o api.InstanceOffer) api.InstanceOffer { o.Availability = api.NotAvailable; return o }
	for name, tt := range map[string]struct {
		queue  []Gang
		offers []api.InstanceOffer
		want   string
		zones  string
	}{
		"only what is reserved":                  {[]Gang{reserved(asks("x", 1, 8), "r")}, []api.InstanceOffer{small, in(big, "r", "z2:1")}, "x: +b/us/g8", "[z2]"},
		"though others cannot have it":           {[]Gang{reserved(asks("x", 1, 8), "r")}, []api.InstanceOffer{away(in(big, "r", "z2:1"))}, "x: +b/us/g8", "[z2]"},
		"in the zones that have room":            {[]Gang{reserved(asks("x", 1, 8), "r")}, []api.InstanceOffer{in(big, "r", "z1:0 z2:1 z3:1")}, "x: +b/us/g8", "[z2 z3]"},
		"anywhere in a region":                   {[]Gang{reserved(asks("x", 1, 8), "r")}, []api.InstanceOffer{in(big, "r", ":1")}, "x: +b/us/g8", "[z1 z2 z3]"},
		"not in another's":                       {[]Gang{reserved(asks("x", 1, 8), "q")}, []api.InstanceOffer{in(big, "r", "z1:1")}, "x: no", ""},
		"not when it is full":                    {[]Gang{reserved(asks("x", 1, 8), "r")}, []api.InstanceOffer{in(big, "r", "z1:0")}, "x: no", ""},
		"as many as there is room for":           {[]Gang{reserved(asks("x", 1, 8), "r"), reserved(asks("y", 1, 8), "r")}, []api.InstanceOffer{in(big, "r", "z1:1")}, "x: +b/us/g8; y: no", ""},
		"of several types":                       {[]Gang{reserved(asks("x", 1, 8), "r"), reserved(asks("y", 1, 8), "r"), reserved(asks("z", 1, 1), "r")}, []api.InstanceOffer{in(small, "r", "z1:1"), in(big, "r", "z1:1")}, "x: +b/us/g8; y: no; z: +b/us/g1", ""},
		"all nodes, or none":                     {[]Gang{reserved(asks("x", 3, 8), "r")}, []api.InstanceOffer{in(big, "r", "z1:2")}, "x: no", ""},
		"nodes in two parts":                     {[]Gang{reserved(asks("x", 3, 8), "r")}, []api.InstanceOffer{in(big, "r", "z1:2 z2:1")}, "x: +b/us/g8 +b/us/g8 +b/us/g8", ""},
		"who asks for none is not held up by it": {[]Gang{reserved(asks("x", 1, 8), "r"), asks("y", 1, 8)}, []api.InstanceOffer{in(big, "r", "z1:1")}, "x: +b/us/g8; y: +b/us/g8", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range tt.queue {
				tt.queue[i].Key = ""
			}
			verdicts := Place(tt.queue, Supply{Fleets: []Fleet{growing()}, Offers: tt.offers, Backends: 1})
			if got := told(verdicts); got != tt.want {
				t.Fatalf("%s, want %s", got, tt.want)
			}
			if tt.zones != "" && fmt.Sprint(verdicts[0].Nodes[0].Offer.AvailabilityZones) != tt.zones {
				t.Errorf("zones %v, want %s", verdicts[0].Nodes[0].Offer.AvailabilityZones, tt.zones)
			}
		})
	}
}

func TestWhyNotOfReservations(t *testing.T) {
	big, small := machine("b", "us", 8, 20), machine("b", "us", 1, 2)
	for name, tt := range map[string]struct {
		nodes  int
		offers []api.InstanceOffer
		want   string // reasons contain
		why    string
	}{
		"not known": {1, []api.InstanceOffer{big, small}, "No backend of the project has offers in a reservation 'r'", "reservation 2"},
		"full":      {1, []api.InstanceOffer{in(big, "r", "z1:0"), small}, "Reservation 'r' is full", "reservation 2"},
		"too small": {2, []api.InstanceOffer{in(big, "r", "z1:1"), small}, "Reservation 'r' has room for 1 instances, 2 are needed", "reservation 1"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, anyway := range []bool{false, true} {
				g := reserved(asks("x", tt.nodes, 8), "r")
				why := WhyNot(g, Supply{Fleets: []Fleet{growing()}, Offers: tt.offers, Backends: 1}, anyway)
				if got := strings.Join(why.Reasons, "\n"); !strings.Contains(got, tt.want) {
					t.Errorf("reasons %q, want %q", got, tt.want)
				}
				got := ""
				for _, e := range why.Excluded {
					if e.Requirement == "reservation" {
						got = fmt.Sprint("reservation ", e.Excludes)
					}
				}
				if got != tt.why {
					t.Errorf("excluded by %q, want %q: %+v", got, tt.why, why)
				}
			}
		})
	}
}

// A plan shows what a reservation has room for, as available.
func TestPlansOfReservations(t *testing.T) {
	full, away, other := in(machine("b", "us", 8, 20), "r", "z1:0"), in(machine("b", "eu", 8, 30), "r", "z1:1"), machine("b", "us", 8, 2)
	away.Availability = api.NoQuota
	offers := []api.InstanceOffer{other, full, away, in(machine("b", "as", 8, 10), "r", "z1:1")}
	Sort(offers)
	s := Supply{Fleets: []Fleet{growing()}, Offers: offers, Backends: 1}
	g := reserved(asks("x", 1, 8), "r")
	choices := Choices(g, s)
	for name, f := range map[string]Found{"run": choices[0].Offers(), "offer": Everywhere(g, s, choices)} {
		got := ""
		for _, o := range every(f) {
			got += fmt.Sprint(o.Region, " ", o.Availability, " ", o.AvailabilityZones, ", ")
		}
		if want := "as available [z1], eu available [z1], "; got != want || f.Usable(9) != 2 {
			t.Errorf("%s: %s, %d usable; want %s", name, got, f.Usable(9), want)
		}
	}
}
