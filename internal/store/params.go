package store

import (
	"context"
	"database/sql"
	"strings"
)

// SQLite takes $1 for a name and numbers names by their first occurrence; ?1 is its numbered
// parameter. numbered translates the one into the other outside of quotes and comments, so
// that $n is the n-th argument on both engines.
func numbered(query string) string {
	if strings.IndexByte(query, '$') < 0 {
		return query
	}
	out := []byte(query) // of the same length
	for i := 0; i < len(out); i++ {
		switch c := out[i]; {
		case c == '\'' || c == '"':
			i = skip(query, i, string(c))
		case strings.HasPrefix(query[i:], "--"):
			i = skip(query, i, "\n")
		case strings.HasPrefix(query[i:], "/*"):
			i = skip(query, i+1, "*/")
		case c == '$' && i+1 < len(out) && out[i+1] >= '1' && out[i+1] <= '9':
			out[i] = '?'
		}
	}
	return string(out)
}

// skip returns the index of the last byte of what ends with end and began at i. A doubled
// quote ends one string and begins the next, which is the same.
func skip(s string, i int, end string) int {
	n := strings.Index(s[i+1:], end)
	if n < 0 {
		return len(s)
	}
	return i + n + len(end)
}

// sqliteReader is a Querier of SQLite.
type sqliteReader struct {
	Querier
}

// QueryContext implements Querier.
func (r sqliteReader) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return r.Querier.QueryContext(ctx, numbered(query), args...)
}

// QueryRowContext implements Querier.
func (r sqliteReader) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return r.Querier.QueryRowContext(ctx, numbered(query), args...)
}
