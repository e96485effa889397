package pricelist

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
)

func rowsOf(l *List) []Row {
	rows := make([]Row, l.Len())
	for i := range rows {
		rows[i] = l.Row(i)
	}
	return rows
}

func encoded(t testing.TB, l *List) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := l.Encode(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestEncodeDecode(t *testing.T) {
	l := random(t, 5000)
	got, err := Decode(bytes.NewReader(encoded(t, l)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rowsOf(l), rowsOf(got)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	a, _ := l.Search(api.Requirements{}, config.ProfileParams{}, -1)
	b, _ := got.Search(api.Requirements{}, config.ProfileParams{}, -1)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("offers (-want +got):\n%s", diff)
	}
}

func TestEncodeRefusesFinerPrices(t *testing.T) {
	var b Builder
	r := h100()
	r.Price = 0.00743999984115362
	if err := b.Add(r); err != nil {
		t.Fatal(err)
	}
	if err := b.List().Encode(&bytes.Buffer{}); err == nil {
		t.Error("a price would be changed")
	}
}

// What could not be read again is not written.
func TestEncodeIsBounded(t *testing.T) {
	l := &List{dates: []string{strings.Repeat("2", maxEncoded)}}
	var out bytes.Buffer
	if err := l.Encode(&out); err == nil || err.Error() != "the list of prices is larger than 33554432 bytes" || out.Len() > 0 {
		t.Errorf("error %v, %d bytes written", err, out.Len())
	}
}

// The largest list that a Builder makes is one that can be read again.
func TestEncodeLargest(t *testing.T) {
	var b Builder
	r := h100()
	for n := range maxDistinct {
		name := fmt.Sprintf("%0*d", maxName-1, n)
		r.Instance, r.Region, r.Zone, r.MemoryMiB = "i"+name, "r"+name, "z"+name, maxMiB-n
		if err := b.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := b.List().Encode(&out); err != nil {
		t.Fatal(err)
	}
	zr, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	size, err := io.Copy(io.Discard, zr)
	const row = 7 + 4*3 + 1 // bytes at most: price, shape, place, zone, date, spot
	if err != nil || size+MaxRows*row > maxEncoded {
		t.Errorf("%d bytes without most rows, %v", size, err)
	}
}

// packed is data as Decode takes it.
func packed(t testing.TB, data string) []byte {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	if _, err := zw.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDecodeRefuses(t *testing.T) {
	good := encoded(t, random(t, 100))
	for name, data := range map[string][]byte{
		"nothing":         nil,
		"another format":  packed(t, "hello"),
		"nothing packed":  packed(t, ""),
		"no tables":       packed(t, magic),
		"cut short":       good[:len(good)/2],
		"a long table":    packed(t, magic+"\xff\xff\xff\xff\x0f"),
		"a huge number":   packed(t, magic+strings.Repeat("\xff", 20)),
		"bytes too many":  packed(t, magic+"\x00\x00\x00\x00\x00\x00"),
		"a word too many": packed(t, magic+"\x00\x00\x01\x07\x00\x00\x01\x01\x00\x00\x00\x00"),
		"a bomb":          packed(t, magic+strings.Repeat("\x00", maxEncoded)),
	} {
		if _, err := Decode(bytes.NewReader(data)); !errors.Is(err, errDamaged) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if l, err := Decode(bytes.NewReader(packed(t, magic+"\x00\x00\x00\x00\x00"))); err != nil || l.Len() != 0 {
		t.Errorf("an empty list: %v", err)
	}
}

func BenchmarkDecode(b *testing.B) {
	data := encoded(b, random(b, 100_000))
	b.ReportMetric(float64(len(data)), "bytes")
	for b.Loop() {
		if _, err := Decode(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEmbedded(b *testing.B) {
	for b.Loop() {
		if _, err := Embedded(); err != nil {
			b.Fatal(err)
		}
	}
}
