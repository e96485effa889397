package store

import (
	"database/sql"
	"errors"
	"fmt"
	"math"
)

// Version is a row's version as a number, in SQL: SQLite keeps whatever somebody writes into a
// column. Queries compare versions in this way, so that a row can be written whatever it has.
const Version = `CAST(version AS BIGINT)`

// NextVersion is what a write makes of a version, in SQL: the next, and of what is none the first.
const NextVersion = `CASE WHEN version BETWEEN 0 AND 4000000000000000000 THEN CAST(version AS BIGINT) + 1 ELSE 1 END`

// Scan is row.Scan for a row that somebody may have edited. A number, a truth value (*int, *int64,
// *float64, *bool) or a document that makes no sense does not keep the rest from being read: it is
// the zero value (a document: what it was), and the error is a [*Damage].
func Scan(row interface{ Scan(dest ...any) error }, dest ...any) error {
	cells, args := make([]cell, len(dest)), make([]any, len(dest))
	for i, d := range dest {
		switch d.(type) {
		case *int, *int64, *float64, *bool, sql.Scanner:
			cells[i].dest = d
			args[i] = &cells[i]
		default:
			args[i] = d
		}
	}
	if err := row.Scan(args...); err != nil {
		return err
	}
	var first *Damage
	for i := range cells {
		if d := cells[i].damage; d != nil && (first == nil || d.Document && !first.Document) {
			first = d
			if named, ok := row.(interface{ Columns() ([]string, error) }); ok && !d.Document {
				if names, err := named.Columns(); err == nil {
					first = &Damage{Err: fmt.Errorf("%s: %w", names[i], d.Err)}
				}
			}
		}
	}
	if first == nil {
		return nil
	}
	return first
}

// DespiteDamage takes the error of reading a row: nil for one that was read but for what makes no
// sense in it. It is for rows of which the zero value tells as much.
func DespiteDamage(err error) error {
	if _, damaged := errors.AsType[*Damage](err); damaged {
		return nil
	}
	return err
}

// cell is the place of one column, and what is wrong with it.
type cell struct {
	dest   any
	damage *Damage
}

// Scan implements sql.Scanner.
func (c *cell) Scan(src any) error {
	ok := true
	switch dest := c.dest.(type) {
	case *int64:
		*dest, ok = whole(src)
	case *int:
		var n int64
		n, ok = whole(src)
		if *dest = int(n); int64(*dest) != n {
			*dest, ok = 0, false
		}
	case *bool:
		*dest, ok = truth(src)
	case *float64:
		*dest, ok = finite(src)
	case sql.Scanner:
		err := dest.Scan(src)
		if damage, damaged := errors.AsType[*Damage](err); damaged {
			c.damage, err = damage, nil
		}
		return err
	}
	if !ok {
		c.damage = &Damage{Err: fmt.Errorf("%s makes no sense here", shown(src))}
	}
	return nil
}

func whole(src any) (int64, bool) {
	n, ok := src.(int64)
	return n, ok
}

// truth takes numbers as SQL does.
func truth(src any) (bool, bool) {
	switch src := src.(type) {
	case bool:
		return src, true
	case int64:
		return src != 0, true
	}
	return false, false
}

func finite(src any) (float64, bool) {
	switch src := src.(type) {
	case int64:
		return float64(src), true
	case float64:
		if !math.IsNaN(src) && !math.IsInf(src, 0) {
			return src, true
		}
	}
	return 0, false
}

// shown is the beginning of a value, for a message.
func shown(src any) string {
	switch src := src.(type) {
	case nil:
		return "NULL"
	case string:
		return fmt.Sprintf("%.40q", src)
	case []byte:
		return fmt.Sprintf("a BLOB of %d bytes", len(src))
	}
	return fmt.Sprintf("%v", src)
}
