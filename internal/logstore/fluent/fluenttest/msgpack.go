package fluenttest

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"
)

// decode reads one value of MessagePack: text and bytes as string, numbers as uint64, an EventTime
// as time.Time.
func decode(r io.Reader) (any, error) {
	head, err := number(r, 1)
	if err != nil {
		return nil, err
	}
	switch h := head; {
	case h < 0x80:
		return h, nil
	case h < 0x90:
		return decodeMap(r, h&0x0f)
	case h < 0xa0:
		return decodeArray(r, h&0x0f)
	case h < 0xc0:
		return decodeString(r, h&0x1f)
	}
	switch head {
	case 0xc4, 0xd9:
		return sized(r, 1, decodeString)
	case 0xc5, 0xda:
		return sized(r, 2, decodeString)
	case 0xc6, 0xdb:
		return sized(r, 4, decodeString)
	case 0xcc, 0xcd, 0xce, 0xcf:
		return number(r, 1<<(head-0xcc))
	case 0xd7:
		return decodeTime(r)
	case 0xdc:
		return sized(r, 2, decodeArray)
	case 0xdd:
		return sized(r, 4, decodeArray)
	case 0xde:
		return sized(r, 2, decodeMap)
	case 0xdf:
		return sized(r, 4, decodeMap)
	}
	return nil, fmt.Errorf("a value that begins with %#x", head)
}

func number(r io.Reader, bytes int) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(r, b[8-bytes:])
	return binary.BigEndian.Uint64(b[:]), err
}

func sized(r io.Reader, bytes int, fn func(io.Reader, uint64) (any, error)) (any, error) {
	n, err := number(r, bytes)
	if err != nil {
		return nil, err
	}
	return fn(r, n)
}

func decodeString(r io.Reader, n uint64) (any, error) {
	if n > math.MaxInt32 {
		return nil, fmt.Errorf("%d bytes", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return string(b), err
}

func decodeArray(r io.Reader, n uint64) (any, error) {
	var list []any
	for range n {
		v, err := decode(r)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func decodeMap(r io.Reader, n uint64) (any, error) {
	m := map[string]any{}
	for range n {
		k, err := decode(r)
		if err != nil {
			return nil, err
		}
		if m[fmt.Sprint(k)], err = decode(r); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// decodeTime reads an EventTime: the type 0, seconds and nanoseconds.
func decodeTime(r io.Reader) (any, error) {
	kind, err := number(r, 1)
	if err != nil || kind != 0 {
		return nil, fmt.Errorf("an extension of type %d, %v", kind, err)
	}
	sec, err := number(r, 4)
	if err != nil {
		return nil, err
	}
	nsec, err := number(r, 4)
	return time.Unix(int64(sec), int64(nsec)), err
}
