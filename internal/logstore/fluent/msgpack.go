package fluent

import (
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// The part of MessagePack that the forward protocol needs.

func appendArray(b []byte, n int) []byte {
	if n < 16 {
		return append(b, 0x90|byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xdd), uint32(n))
}

func appendMap(b []byte, n int) []byte { return append(b, 0x80|byte(n)) } // n < 16

func appendString(b []byte, s string) []byte {
	if len(s) < 32 {
		b = append(b, 0xa0|byte(len(s)))
	} else {
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(len(s)))
	}
	return append(b, s...)
}

func appendInt(b []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(n))
}

// appendTime is an EventTime: seconds and nanoseconds as an extension.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, 0xd7, 0x00)
	b = binary.BigEndian.AppendUint32(b, uint32(t.Unix()))
	return binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond()))
}

var errAck = errors.New("the answer is no acknowledgement")

// readAck reads a map of one pair of strings, "ack" and the identity of a chunk.
func readAck(r io.Reader) (string, error) {
	var head [1]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	if head[0] != 0x81 {
		return "", errAck
	}
	key, err := readString(r)
	if err != nil {
		return "", err
	}
	if key != "ack" {
		return "", errAck
	}
	return readString(r)
}

// readString reads text or bytes of at most 255.
func readString(r io.Reader) (string, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return "", err
	}
	var n int
	switch {
	case head[0]&0xe0 == 0xa0:
		n = int(head[0] & 0x1f)
	case head[0] == 0xd9 || head[0] == 0xc4: // text or bytes, with their length in a byte
		if _, err := io.ReadFull(r, head[1:]); err != nil {
			return "", err
		}
		n = int(head[1])
	default:
		return "", errAck
	}
	text := make([]byte, n)
	_, err := io.ReadFull(r, text)
	return string(text), err
}
