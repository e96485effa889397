package agentapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// lineBuffer is what a stream reads at a time, in bytes, and keeps for its next line.
const lineBuffer = 512

// eventReader reads the lines of an event stream.
type eventReader struct {
	r    *bufio.Reader
	line []byte
}

func newEventReader(r io.Reader) *eventReader {
	return &eventReader{r: bufio.NewReaderSize(r, lineBuffer)}
}

// next returns the next event. A line that is none, or longer than [MaxEvent], is an event of
// the kind [UnreadableEvent]: what follows can be read all the same. A line that breaks off is
// left out.
func (r *eventReader) next() (Event, error) {
	long, size := false, 0
	if r.line = r.line[:0]; cap(r.line) > 16*lineBuffer {
		r.line = nil // there are ten thousand streams, and few have long lines
	}
	for {
		part, err := r.r.ReadSlice('\n')
		size += len(part)
		if long = long || size > MaxEvent; !long {
			r.line = append(r.line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return Event{}, err
		case long:
			return Event{Kind: UnreadableEvent}, nil
		}
		e := Event{}
		if err := unmarshal(r.line, &e); err != nil {
			return Event{Kind: UnreadableEvent, Seq: max(0, e.Seq)}, nil
		}
		e.Size = size
		return e, nil
	}
}

// unmarshal reads JSON of a host. No text has NUL in it afterwards, which PostgreSQL cannot store.
func unmarshal(data []byte, v any) error { return json.Unmarshal(withoutNUL(data), v) }

var (
	escapedNUL         = []byte(`\u0000`)
	escapedReplacement = []byte(`\ufffd`)
)

// withoutNUL writes the replacement character for each NUL in the texts of a JSON document.
func withoutNUL(data []byte) []byte {
	if !bytes.Contains(data, escapedNUL) {
		return data
	}
	out := bytes.Clone(data)
	for i := 0; i < len(out); i++ {
		switch {
		case out[i] != '\\':
		case bytes.HasPrefix(out[i:], escapedNUL):
			copy(out[i:], escapedReplacement)
		default:
			i++ // what is escaped, a backslash for example
		}
	}
	return out
}
