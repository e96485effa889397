package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dstack/internal/api"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// boots is a machine of an offer that is up within some minutes.
func boots(id string, o api.InstanceOffer, blocks, minutes int) *Host {
	h := rented(hosted(id, "f", 0, blocks, 0), o)
	h.UpBy = noon.Add(time.Duration(minutes) * time.Minute)
	return h
}

// awaits is a gang that was refused and may wait for machines which boot for half an hour.
func awaits(g Gang) Gang {
	g.AwaitsUntil = noon.Add(30 * time.Minute)
	return g
}

// Who was refused does not ask again while a machine boots that is as cheap, and keeps nothing else from others.
func TestAwait(t *testing.T) {
	grows := func(room int) []Fleet { f := cluster("f"); f.Room = room; return []Fleet{f} }
	impatient := func(g Gang) Gang { g.Patient = false; return g }
	open := func(g Gang) Gang { g.Open, g.Key = true, "open"; return g }
	in := func(fleet string, g Gang) Gang { g.Fleets, g.Key = []string{fleet}, fleet; return g }
	lowered := func(o api.InstanceOffer) api.InstanceOffer { o.Penalty = 1; return o }
	aEU, bUS, b8 := machine("a", "eu", 1, 1), machine("b", "us", 1, 2), machine("b", "us", 8, 20)
	clouds := []api.InstanceOffer{aEU, bUS, b8}
	m := boots("m", aEU, 1, 10)
	for _, c := range []struct {
		name  string
		queue []Gang
		s     Supply
		want  string
	}{
		{"as cheap as what it would have", []Gang{awaits(asks("x", 1, 1))}, Supply{Fleets: grows(-1), Coming: []*Host{m}, Offers: clouds}, "x: awaits m"},
		{"one is dearer", []Gang{awaits(asks("x", 1, 1))}, Supply{Fleets: grows(-1), Coming: []*Host{boots("m", bUS, 1, 10)}, Offers: clouds}, "x: +a/eu/g1"},
		{"what could not be had lately counts as dearer", []Gang{awaits(asks("x", 1, 1))},
			Supply{Fleets: grows(-1), Coming: []*Host{boots("m", bUS, 1, 10)}, Offers: []api.InstanceOffer{lowered(aEU)}}, "x: awaits m"},
		{"before it may ask again", []Gang{awaits(refused(asks("x", 1, 1)))}, Supply{Fleets: grows(-1), Coming: []*Host{m}, Offers: clouds}, "x: awaits m"},
		{"one is of no use", []Gang{awaits(asks("x", 1, 8))}, Supply{Fleets: grows(-1), Coming: []*Host{m}, Offers: clouds}, "x: +b/us/g8"},
		{"an instance that is there comes first", []Gang{awaits(asks("x", 1, 1))},
			Supply{Fleets: grows(-1), Hosts: []*Host{hosted("h", "f", 1, 1, 0)}, Coming: []*Host{m}, Offers: clouds}, "x: h:1"},
		{"its patience would end first", []Gang{awaits(asks("x", 1, 1))}, Supply{Fleets: grows(-1), Coming: []*Host{boots("m", aEU, 1, 31)}, Offers: clouds}, "x: +a/eu/g1"},
		{"one that may not wait", []Gang{impatient(asks("x", 1, 1))}, Supply{Fleets: grows(-1), Coming: []*Host{m}, Offers: clouds}, "x: +a/eu/g1"},
		{"one that was not refused asks", []Gang{asks("x", 1, 1), awaits(asks("y", 1, 1))}, Supply{Fleets: grows(-1), Coming: []*Host{m}, Offers: clouds}, "x: +a/eu/g1; y: awaits m"},
		{"and has the machine when it cannot", []Gang{asks("x", 1, 1), awaits(asks("y", 1, 1))}, Supply{Fleets: grows(0), Coming: []*Host{m}, Offers: clouds}, "x: no; y: no"},
		{"no two count on the same", []Gang{awaits(asks("x", 1, 1)), awaits(asks("y", 1, 1))}, Supply{Fleets: grows(-1), Coming: []*Host{m}, Offers: clouds}, "x: awaits m; y: +a/eu/g1"},
		{"but on parts of one", []Gang{awaits(asks("x", 1, 1)), awaits(asks("y", 1, 1)), awaits(asks("z", 1, 1))},
			Supply{Fleets: grows(-1), Coming: []*Host{boots("m", machine("a", "eu", 2, 1), 2, 10)}, Offers: clouds}, "x: awaits m; y: awaits m; z: +a/eu/g1"},
		{"those behind have the room of the fleet", []Gang{awaits(asks("x", 1, 1)), asks("y", 1, 8)}, Supply{Fleets: grows(1), Coming: []*Host{m}, Offers: clouds}, "x: awaits m; y: +b/us/g8"},
		{"also while it might not ask", []Gang{awaits(refused(asks("x", 1, 1))), asks("y", 1, 8)},
			Supply{Fleets: grows(1), Coming: []*Host{m}, Offers: clouds, Refused: except("a")}, "x: awaits m; y: +b/us/g8"},
		{"it does not ask with those behind", []Gang{awaits(again(asks("x", 1, 1))), asks("y", 1, 1)},
			Supply{Fleets: grows(-1), Coming: []*Host{m}, Offers: clouds, Refused: except("a", "b")}, "x: awaits m; y: +a/eu/g1"},
		{"nor they with it", []Gang{in("g", again(asks("x", 1, 1))), awaits(asks("y", 1, 1))},
			Supply{Fleets: append(grows(-1), Fleet{ID: "g", Name: "g", Room: -1, Ask: anything()}), Coming: []*Host{m}, Offers: clouds, Refused: except("a", "b")}, "x: no; y: awaits m"},
		{"all nodes of a cluster", []Gang{awaits(asks("x", 2, 1))},
			Supply{Fleets: grows(-1), Coming: []*Host{boots("m", bUS, 1, 10), boots("n", bUS, 1, 20)}, Offers: clouds}, "x: awaits m n"},
		{"some of them are not enough", []Gang{awaits(asks("x", 2, 1))}, Supply{Fleets: grows(-1), Coming: []*Host{boots("m", bUS, 1, 10)}, Offers: clouds}, "x: +b/us/g1 +b/us/g1"},
		{"and are not counted on by others", []Gang{awaits(refused(asks("x", 2, 1))), awaits(asks("y", 1, 1))},
			Supply{Fleets: grows(-1), Coming: []*Host{boots("m", bUS, 1, 10)}, Offers: []api.InstanceOffer{bUS}}, "x: no; y: +b/us/g1"},
		{"nor is what an open one could use", []Gang{open(asks("x", 1, 1)), awaits(asks("y", 1, 1))}, Supply{Fleets: grows(-1), Coming: []*Host{m}, Offers: clouds}, "x: no; y: +a/eu/g1"},
		{"the cheapest that boots", []Gang{awaits(asks("x", 1, 1))},
			Supply{Fleets: grows(-1), Coming: []*Host{boots("m", bUS, 1, 10), boots("n", aEU, 1, 10)}, Offers: []api.InstanceOffer{bUS}}, "x: awaits n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := told(Place(c.queue, c.s)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Who waits is told for what, and looked at again when it must be there.
func TestAwaitTells(t *testing.T) {
	b := machine("b", "us", 1, 2)
	v := Place([]Gang{awaits(refused(asks("x", 1, 1))), awaits(refused(asks("y", 2, 1)))}, Supply{
		Fleets: []Fleet{cluster("f")}, Coming: []*Host{boots("m", b, 1, 10), boots("n", b, 1, 20), boots("o", b, 1, 15)},
	})
	for i, want := range []string{"Waits until instance 'm' has booted", "Waits until instances 'n' and 'o' have booted"} {
		if at := noon.Add(time.Duration(10+10*i) * time.Minute); v[i].Why != want || !v[i].UpBy.Equal(at) {
			t.Errorf("%s, looked at again at %v; want %s, %v", v[i].Why, v[i].UpBy, want, at)
		}
	}
}

// TestAwaitsAreRight has random queues beside machines that boot: nobody counts on what another does, or waits longer
// than it may, and all others are placed as if those who wait for such machines were not there.
func TestAwaitsAreRight(t *testing.T) {
	r := rand.New(rand.NewPCG(51, 52))
	waiting, placed := 0, 0
	for n := range 20_000 {
		queue, s := randomQueue(r), randomSupply(r)
		for i := range queue {
			if r.IntN(2) == 0 {
				queue[i] = awaits(queue[i])
			}
		}
		byID := map[string]*Host{}
		for i := range 1 + r.IntN(3) {
			h := boots(fmt.Sprint("m", i), machine(pick(r, "a", "b"), pick(r, "eu", "us"), pick(r, 1, 2, 4), float64(1+r.IntN(4))), pick(r, 1, 1, 2), pick(r, 10, 20, 40))
			h.Fleet = pick(r, "f", "g")
			s.Coming = append(s.Coming, h)
			byID[h.ID] = h
		}
		verdicts, used := Place(queue, s), map[string]int{}
		var others []Gang
		var theirs []Verdict
		for i, v := range verdicts {
			if v.Awaits == nil {
				others, theirs = append(others, queue[i]), append(theirs, v)
				continue
			}
			waiting++
			if len(v.Awaits) != len(queue[i].Jobs) || v.Nodes != nil || !queue[i].Patient {
				t.Fatalf("queue %d, gang %d: %+v", n, i, v)
			}
			for _, node := range v.Awaits {
				h := byID[node.Host]
				if used[h.ID] += node.Blocks; used[h.ID] > h.Blocks || h.UpBy.After(queue[i].AwaitsUntil) {
					t.Fatalf("queue %d, gang %d waits for %s, which is up by %v, with %d of %d blocks\n%s", n, i, h.ID, h.UpBy, used[h.ID], h.Blocks, told(verdicts))
				}
			}
		}
		alone := s
		alone.Coming = nil
		if got, want := told(theirs), told(Place(others, alone)); got != want {
			t.Fatalf("queue %d: with machines that boot %s, without them and those who wait for them %s", n, got, want)
		}
		placed += flag(slices.ContainsFunc(theirs, func(v Verdict) bool { return v.Nodes != nil }))
	}
	if waiting < 1000 || placed < 1000 {
		t.Errorf("%d gangs wait, beside %d times others that are placed: too few to tell", waiting, placed)
	}
}
