package logstore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"

	"dstack/internal/store"
)

// recordSize is the size of one record of an index file, little endian: offset (8 bytes),
// Unix microseconds (8), length (4), CRC-32C of the data (4).
const recordSize = 24

type record struct {
	offset int64
	micros int64
	length uint32
	sum    uint32
}

func castagnoli(data []byte) uint32 {
	return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) // the table is cached there
}

func (r record) encode(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(r.offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.micros))
	b = binary.LittleEndian.AppendUint32(b, r.length)
	return binary.LittleEndian.AppendUint32(b, r.sum)
}

func decode(b []byte) record {
	return record{
		offset: int64(binary.LittleEndian.Uint64(b)), micros: int64(binary.LittleEndian.Uint64(b[8:])),
		length: binary.LittleEndian.Uint32(b[16:]), sum: binary.LittleEndian.Uint32(b[20:]),
	}
}

func readRecord(idx io.ReaderAt, i int64) (record, error) {
	var b [recordSize]byte
	if _, err := idx.ReadAt(b[:], i*recordSize); err != nil {
		return record{}, err
	}
	return decode(b[:]), nil
}

// recover finds out what the files hold and cuts off a torn end.
func (s *stream) recover() error {
	s.size, s.count, s.last, s.known = 0, 0, 0, true
	idx, err := os.OpenFile(s.path+".idx", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		s.known = false
		return err
	}
	data, err := os.OpenFile(s.path+".log", os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = s.cut(idx, data)
		err = errors.Join(err, data.Close())
	}
	err = errors.Join(err, idx.Close())
	s.known = err == nil
	return err
}

func (s *stream) cut(idx, data *os.File) error {
	idxInfo, err := idx.Stat()
	if err != nil {
		return err
	}
	dataInfo, err := data.Stat()
	if err != nil {
		return err
	}
	for n := idxInfo.Size() / recordSize; n > 0; n-- {
		r, err := readRecord(idx, n-1)
		if err != nil {
			return err
		}
		if r.whole(data, dataInfo.Size()) {
			s.count, s.size, s.last = n, r.offset+int64(r.length), r.micros
			break
		}
	}
	if idxInfo.Size() != s.count*recordSize {
		if err := idx.Truncate(s.count * recordSize); err != nil {
			return err
		}
	}
	if dataInfo.Size() != s.size {
		return data.Truncate(s.size)
	}
	return nil
}

// whole reports whether the bytes that r covers are in data.
func (r record) whole(data io.ReaderAt, size int64) bool {
	if r.length == 0 || r.offset < 0 || r.offset+int64(r.length) > size {
		return false
	}
	b := make([]byte, r.length)
	if _, err := data.ReadAt(b, r.offset); err != nil {
		return false
	}
	return castagnoli(b) == r.sum
}

// append writes what is new of chunks. After a write that failed, perhaps in the middle, nothing is known of what is
// there: records of it that stayed would be taken for true by whoever opens the stream next.
func (s *stream) append(chunks []Chunk) error {
	var bytes, records []byte
	var gap error
	size, last, count := s.size, s.last, s.count
	for _, c := range chunks {
		if c.Offset > size {
			gap = &GapError{Have: size, Got: c.Offset}
			break
		}
		fresh := c.Data[min(size-c.Offset, int64(len(c.Data))):]
		if len(fresh) == 0 {
			continue
		}
		last = max(store.Micros(c.At), last+1)
		r := record{offset: size, micros: last, length: uint32(len(fresh)), sum: castagnoli(fresh)}
		records = r.encode(records)
		bytes = append(bytes, fresh...)
		size += int64(len(fresh))
		count++
	}
	if len(bytes) == 0 {
		return gap
	}
	if s.count == 0 {
		if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
			return err
		}
	}
	err := s.write(s.path+".log", bytes, s.size)
	if err == nil {
		err = s.write(s.path+".idx", records, s.count*recordSize)
	}
	if err != nil {
		s.known = false
		return err
	}
	s.size, s.last, s.count = size, last, count
	return gap
}

func writeAt(path string, data []byte, offset int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, offset)
	return errors.Join(err, f.Close())
}

// poll reads a page out of the first count records. at is the token's position: events from
// there on, or before it when descending.
func poll(path string, count, at int64, q Query) (page Page, err error) {
	page.Cursor = strconv.FormatInt(min(at, count), 10)
	if count == 0 {
		return page, nil
	}
	idx, err := openRead(path + ".idx")
	if idx == nil {
		return page, err // deleted meanwhile
	}
	defer func() { err = errors.Join(err, idx.Close()) }()
	data, err := openRead(path + ".log")
	if data == nil {
		return page, err
	}
	defer func() { err = errors.Join(err, data.Close()) }()

	low, high, err := bounds(idx, count, q)
	if err != nil {
		return Page{}, err
	}
	if q.Descending {
		if q.Token != "" {
			high = min(high, at)
		}
		return backward(idx, data, low, high, q.Limit)
	}
	return forward(idx, data, max(low, min(at, count)), high, q.Limit)
}

// recordAt is the first of count records that covers bytes from an offset on.
func recordAt(path string, count, offset int64) (n int64, err error) {
	if count == 0 {
		return 0, nil
	}
	idx, err := openRead(path + ".idx")
	if idx == nil {
		return 0, err // deleted meanwhile
	}
	defer func() { err = errors.Join(err, idx.Close()) }()
	found := sort.Search(int(count), func(i int) bool {
		r, readErr := readRecord(idx, int64(i))
		if readErr != nil {
			err = readErr
		}
		return r.offset+int64(r.length) > offset
	})
	return int64(found), err
}

// bounds returns the range of records within the query's times.
func bounds(idx io.ReaderAt, count int64, q Query) (low, high int64, err error) {
	search := func(after func(micros int64) bool) int64 {
		return int64(sort.Search(int(count), func(i int) bool {
			r, readErr := readRecord(idx, int64(i))
			if readErr != nil {
				err = readErr
			}
			return after(r.micros)
		}))
	}
	high = count
	if !q.Start.IsZero() {
		start := q.Start.UnixMicro()
		low = search(func(m int64) bool { return m > start })
	}
	if !q.End.IsZero() {
		end := q.End.UnixMicro()
		high = search(func(m int64) bool { return m > end || m == end && !q.Descending })
	}
	return low, high, err
}

func forward(idx, data io.ReaderAt, low, high int64, limit int) (Page, error) {
	p := Page{Cursor: strconv.FormatInt(low, 10)}
	bytes := 0
	for i := low; i < high; i++ {
		if len(p.Events) == limit || bytes >= MaxBytes {
			if limit > 0 {
				p.Next = strconv.FormatInt(i, 10)
			}
			break
		}
		e, err := readEvent(idx, data, i)
		if err != nil {
			return Page{}, err
		}
		p.Events = append(p.Events, e)
		p.Cursor = strconv.FormatInt(i+1, 10)
		bytes += len(e.Data)
	}
	return p, nil
}

func backward(idx, data io.ReaderAt, low, high int64, limit int) (Page, error) {
	p := Page{Cursor: strconv.FormatInt(max(low, high), 10)}
	bytes := 0
	for i := high - 1; i >= low; i-- {
		if len(p.Events) == limit || bytes >= MaxBytes {
			if limit > 0 {
				p.Next = strconv.FormatInt(i+1, 10)
			}
			break
		}
		e, err := readEvent(idx, data, i)
		if err != nil {
			return Page{}, err
		}
		p.Events = append(p.Events, e)
		bytes += len(e.Data)
	}
	return p, nil
}

func readEvent(idx, data io.ReaderAt, i int64) (Event, error) {
	r, err := readRecord(idx, i)
	if err != nil {
		return Event{}, err
	}
	e := Event{Offset: r.offset, At: store.Time(r.micros), Data: make([]byte, r.length)}
	_, err = data.ReadAt(e.Data, r.offset)
	return e, err
}
