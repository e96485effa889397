package store

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Micros is how times are stored: microseconds since 1970 UTC, 0 for the zero time.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time is the inverse of [Micros].
func Time(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// Marks writes n placeholders, $from and those after it, for what follows IN.
func Marks(from, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = "$" + strconv.Itoa(from+i)
	}
	return strings.Join(list, ", ")
}

// Args are values as arguments of a statement.
func Args[T any](list []T) []any {
	args := make([]any, len(list))
	for i, v := range list {
		args[i] = v
	}
	return args
}

// JSON stores *v, a document of JSON, in one TEXT column, and scans such a column into *v.
// v is a pointer in both cases. NULL leaves *v as it is.
func JSON[T any](v *T) Document[T] { return Document[T]{v} }

// Document is the argument and the destination that [JSON] makes.
type Document[T any] struct{ v *T }

// Value implements driver.Valuer.
func (d Document[T]) Value() (driver.Value, error) {
	b, err := json.Marshal(d.v)
	if err != nil {
		return nil, fmt.Errorf("store document: %w", err)
	}
	return string(b), nil
}

// Damage is a stored document that makes no sense: it is no JSON, of other types, or lacks what
// is always there; or a stored number that is none, see [Scan].
type Damage struct {
	Err      error
	Document bool // it is a document: what it says is not known
}

func (d *Damage) Error() string {
	if d.Document {
		return "stored document: " + d.Err.Error()
	}
	return "stored value: " + d.Err.Error()
}

func (d *Damage) Unwrap() error { return d.Err }

// Scan implements sql.Scanner. The error is a [*Damage]; documents with a method Intact() error
// are asked as well.
func (d Document[T]) Scan(src any) error {
	var b []byte
	switch src := src.(type) {
	case nil:
		return nil
	case string:
		b = []byte(src)
	case []byte:
		b = src
	default:
		return &Damage{fmt.Errorf("a %T, not text", src), true}
	}
	if err := json.Unmarshal(b, d.v); err != nil {
		return &Damage{err, true}
	}
	if v, ok := any(d.v).(interface{ Intact() error }); ok {
		if err := v.Intact(); err != nil {
			return &Damage{err, true}
		}
	}
	return nil
}
