package logstore

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var tenOClock = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

func TestCut(t *testing.T) {
	limits := Limits{Records: 4, BatchBytes: 100, RecordBytes: 30, Overhead: 2, Growth: 3, Span: time.Hour, Past: 24 * time.Hour, Future: 2 * time.Hour, Precision: time.Millisecond}
	ms := func(n int) time.Time { return tenOClock.Add(time.Duration(n) * time.Millisecond) }
	type event struct {
		at   time.Time
		size int
	}
	for name, c := range map[string]struct {
		floor  time.Time
		events []event
		chunks int
		want   []Record
	}{
		"one":                        {events: []event{{ms(0), 5}}, chunks: 1, want: []Record{{0, ms(0), 5, nil}}},
		"two":                        {events: []event{{ms(0), 5}, {ms(1), 5}}, chunks: 2, want: []Record{{0, ms(0), 5, nil}, {5, ms(1), 5, nil}}},
		"of one time":                {events: []event{{ms(0), 4}, {ms(0).Add(time.Microsecond), 5}}, chunks: 2, want: []Record{{0, ms(0), 9, nil}}},
		"of one time, too much":      {events: []event{{ms(0), 6}, {ms(0).Add(time.Microsecond), 5}}, chunks: 2, want: []Record{{0, ms(0), 6, nil}, {6, ms(1), 5, nil}}},
		"more than a record":         {events: []event{{ms(0), 25}}, chunks: 1, want: []Record{{0, ms(0), 10, nil}, {10, ms(1), 10, nil}, {20, ms(2), 5, nil}}},
		"more than a record, others": {events: []event{{ms(0), 12}, {ms(1), 3}}, chunks: 2, want: []Record{{0, ms(0), 10, nil}, {10, ms(1), 5, nil}}},
		"behind the last batch":      {floor: ms(7), events: []event{{ms(3), 5}, {ms(8), 2}}, chunks: 2, want: []Record{{0, ms(8), 7, nil}}},
		"records":                    {events: []event{{ms(0), 1}, {ms(1), 1}, {ms(2), 1}, {ms(3), 1}, {ms(4), 1}}, chunks: 4, want: []Record{{0, ms(0), 1, nil}, {1, ms(1), 1, nil}, {2, ms(2), 1, nil}, {3, ms(3), 1, nil}}},
		"bytes":                      {events: []event{{ms(0), 10}, {ms(1), 10}, {ms(2), 10}, {ms(3), 10}}, chunks: 3, want: []Record{{0, ms(0), 10, nil}, {10, ms(1), 10, nil}, {20, ms(2), 10, nil}}},
		"bytes of one time":          {events: []event{{ms(0), 10}, {ms(1), 10}, {ms(2), 9}, {ms(2), 1}, {ms(2), 1}}, chunks: 4, want: []Record{{0, ms(0), 10, nil}, {10, ms(1), 10, nil}, {20, ms(2), 10, nil}}},
		"larger than a batch":        {events: []event{{ms(0), 55}, {ms(1), 1}}, chunks: 1, want: []Record{{0, ms(0), 10, nil}, {10, ms(1), 10, nil}, {20, ms(2), 10, nil}, {30, ms(3), 10, nil}, {40, ms(4), 10, nil}, {50, ms(5), 5, nil}}},
		"span":                       {events: []event{{ms(-1), 1}, {ms(3_600_000), 1}}, chunks: 1, want: []Record{{0, ms(-1), 1, nil}}},
		"too old":                    {events: []event{{tenOClock.AddDate(-1, 0, 0), 1}}, chunks: 1, want: []Record{{0, tenOClock.Add(-24 * time.Hour), 1, nil}}},
		"too new":                    {events: []event{{tenOClock.AddDate(1, 0, 0), 1}}, chunks: 1, want: []Record{{0, tenOClock.Add(2 * time.Hour), 1, nil}}},
	} {
		t.Run(name, func(t *testing.T) {
			var events []Event
			var offset int64
			for _, e := range c.events {
				events = append(events, Event{Offset: offset, At: e.at, Data: make([]byte, e.size)})
				offset += int64(e.size)
			}
			b := cut(tenOClock, c.floor, events, limits)
			if diff := cmp.Diff(c.want, b.records); len(b.chunks) != c.chunks || diff != "" {
				t.Errorf("%d chunks, want %d; records (-want +got):\n%s", len(b.chunks), c.chunks, diff)
			}
		})
	}
}

// TestBatches cuts random events and puts them together again, from what a service may answer.
func TestBatches(t *testing.T) {
	limits := Limits{Records: 20, BatchBytes: 600, RecordBytes: 90, Overhead: 3, Growth: 3, Precision: time.Millisecond}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var events []Event
		var data []byte
		at := tenOClock
		for range 1 + rnd.IntN(30) {
			at = at.Add(time.Duration(1+rnd.IntN(1500)) * time.Microsecond)
			e := Event{Offset: int64(len(data)), At: at}
			for range 1 + rnd.IntN(60) {
				e.Data = append(e.Data, byte(rnd.Uint32()))
			}
			data = append(data, e.Data...)
			events = append(events, e)
		}
		var floor time.Time
		for rest := events; len(rest) > 0; {
			b := cut(tenOClock, floor, rest, limits)
			if len(b.records) > limits.Records || b.records[0].At.Before(floor) {
				t.Fatalf("a batch of %d records from %v, floor %v", len(b.records), b.records[0].At, floor)
			}
			floor = b.records[len(b.records)-1].At
			again, err := parseLayout(b.start, b.layout())
			if diff := cmp.Diff(b, again, cmp.AllowUnexported(batch{})); err != nil || diff != "" {
				t.Fatalf("layout: %v (-want +got):\n%s", err, diff)
			}
			got := []Record{{At: floor.Add(time.Second), Data: []byte("of another batch")}}
			for _, r := range b.records {
				r.Data = data[r.Offset : r.Offset+int64(r.Size)]
				got = append(got, r, r)
			}
			rnd.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
			back, complete := b.restore(got)
			if diff := cmp.Diff(rest[:len(b.chunks)], back); !complete || diff != "" {
				t.Fatalf("restored, complete %v (-want +got):\n%s", complete, diff)
			}
			rest = rest[len(b.chunks):]
		}
	}
}

func TestRestoreLeavesOutWhatIsMissing(t *testing.T) {
	ms := func(n int) time.Time { return tenOClock.Add(time.Duration(n) * time.Millisecond) }
	b := batch{
		start:   100,
		chunks:  []Record{{100, ms(0), 2, nil}, {102, ms(1), 2, nil}, {104, ms(2), 4, nil}, {108, ms(3), 1, nil}},
		records: []Record{{100, ms(0), 4, nil}, {104, ms(2), 2, nil}, {106, ms(3), 2, nil}, {108, ms(4), 1, nil}},
	}
	for name, c := range map[string]struct {
		got  []Record
		want string
	}{
		"nothing":             {nil, ""},
		"a part of a chunk":   {[]Record{{At: ms(2), Data: []byte("ef")}}, ""},
		"others":              {[]Record{{At: ms(0), Data: []byte("abcd")}, {At: ms(4), Data: []byte("z")}}, "ab cd z "},
		"of another size":     {[]Record{{At: ms(0), Data: []byte("abc")}, {At: ms(4), Data: []byte("z")}}, "z "},
		"the end of the data": {[]Record{{At: ms(2), Data: []byte("ef")}, {At: ms(3), Data: []byte("gh")}}, "efgh "},
	} {
		events, complete := b.restore(c.got)
		text := ""
		for _, e := range events {
			text += string(e.Data) + " "
		}
		if text != c.want || complete {
			t.Errorf("%s: %q, complete %v, want %q", name, text, complete, c.want)
		}
	}
}

func FuzzLayout(f *testing.F) {
	f.Add(batch{chunks: []Record{{0, tenOClock, 3, nil}}, records: []Record{{0, tenOClock, 3, nil}}}.layout())
	f.Fuzz(func(t *testing.T, layout []byte) {
		b, err := parseLayout(7, layout)
		if err != nil {
			return
		}
		again, err := parseLayout(7, b.layout())
		if diff := cmp.Diff(b, again, cmp.AllowUnexported(batch{})); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}
