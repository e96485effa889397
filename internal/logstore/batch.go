package logstore

import (
	"encoding/binary"
	"errors"
	"time"
)

// batch is what is sent to a service at once. Chunks and records cover the same bytes.
type batch struct {
	start   int64
	chunks  []Record // as they came from the host
	records []Record // as the service has them
}

func (b batch) size() int64 {
	var n int64
	for _, c := range b.chunks {
		n += int64(c.Size)
	}
	return n
}

// cut makes a batch of the first of events, which are in order and without gaps. Records get
// times behind floor.
func cut(now, floor time.Time, events []Event, l Limits) batch {
	b := batch{start: events[0].Offset}
	c := cutter{Limits: l, now: now, last: floor}
	for _, e := range events {
		if !c.add(e) {
			break
		}
		b.chunks = append(b.chunks, Record{Offset: e.Offset, At: e.At, Size: len(e.Data)})
	}
	b.records = c.records
	return b
}

// cutter is a batch that grows.
type cutter struct {
	Limits
	now     time.Time
	last    time.Time // of the last record
	records []Record
	bytes   int // at the service, at most
}

// add takes one event more, unless that were above the limits. The first is always taken: a chunk
// that is too large by itself is a batch of its own.
func (c *cutter) add(e Event) bool {
	n, size := len(c.records), len(e.Data)
	most := c.RecordBytes / c.Growth
	at := c.clamp(e.At)
	if n > 0 && !at.After(c.last) && c.records[n-1].Size+size <= most {
		if c.bytes+size*c.Growth > c.BatchBytes {
			return false
		}
		c.records[n-1].Size += size
		c.bytes += size * c.Growth
		return true
	}
	if !at.After(c.last) {
		at = c.last.Add(c.Precision)
	}
	parts := (size + most - 1) / most
	bytes := c.bytes + size*c.Growth + parts*c.Overhead
	if n > 0 && (n+parts > c.Records || bytes > c.BatchBytes ||
		c.Span > 0 && at.Add(time.Duration(parts-1)*c.Precision).Sub(c.records[0].At) > c.Span) {
		return false
	}
	for offset := e.Offset; size > 0; at = at.Add(c.Precision) {
		part := min(size, most)
		c.records = append(c.records, Record{Offset: offset, At: at, Size: part})
		c.last, offset, size = at, offset+int64(part), size-part
	}
	c.bytes = bytes
	return true
}

// clamp is the time that the service takes for an event of this time.
func (c *cutter) clamp(at time.Time) time.Time {
	if c.Past > 0 && at.Before(c.now.Add(-c.Past)) {
		at = c.now.Add(-c.Past)
	}
	if c.Future > 0 && at.After(c.now.Add(c.Future)) {
		at = c.now.Add(c.Future)
	}
	return at.Truncate(c.Precision).UTC()
}

// restore returns the chunks of b, of which got has the records: those of which a byte is missing
// are left out.
func (b batch) restore(got []Record) (events []Event, complete bool) {
	data := make(map[int64][]byte, len(got))
	for _, r := range got {
		data[r.At.UnixMicro()] = r.Data
	}
	all := make([]byte, b.size())
	var holes []Record
	for _, r := range b.records {
		if d := data[r.At.UnixMicro()]; len(d) == r.Size {
			copy(all[r.Offset-b.start:], d)
		} else {
			holes = append(holes, r)
		}
	}
	for _, c := range b.chunks {
		for len(holes) > 0 && holes[0].Offset+int64(holes[0].Size) <= c.Offset {
			holes = holes[1:]
		}
		end := c.Offset + int64(c.Size)
		if len(holes) > 0 && holes[0].Offset < end {
			continue
		}
		events = append(events, Event{Offset: c.Offset, At: c.At, Data: all[c.Offset-b.start : end-b.start : end-b.start]})
	}
	return events, len(events) == len(b.chunks)
}

// layout is chunks and records as bytes: how many, and the size and the microseconds since the one
// before of each, twice.
func (b batch) layout() []byte {
	var out []byte
	for _, list := range [][]Record{b.chunks, b.records} {
		out = binary.AppendUvarint(out, uint64(len(list)))
		var last int64
		for _, r := range list {
			at := r.At.UnixMicro()
			out = binary.AppendUvarint(out, uint64(r.Size))
			out = binary.AppendVarint(out, at-last)
			last = at
		}
	}
	return out
}

var errLayout = errors.New("the layout of a batch is damaged")

func parseLayout(start int64, layout []byte) (batch, error) {
	b := batch{start: start}
	ok := true
	uvarint := func() int64 {
		v, n := binary.Uvarint(layout)
		if n <= 0 || v > 1<<40 {
			ok = false
			return 0
		}
		layout = layout[n:]
		return int64(v)
	}
	for _, list := range []*[]Record{&b.chunks, &b.records} {
		offset, at := start, int64(0)
		for n := uvarint(); n > 0 && ok; n-- {
			size := uvarint()
			d, used := binary.Varint(layout)
			if used <= 0 {
				ok = false
				break
			}
			layout = layout[used:]
			at += d
			*list = append(*list, Record{Offset: offset, At: time.UnixMicro(at).UTC(), Size: int(size)})
			offset += size
		}
	}
	if !ok || len(layout) > 0 || len(b.chunks) == 0 || len(b.records) == 0 {
		return batch{}, errLayout
	}
	return b, nil
}
