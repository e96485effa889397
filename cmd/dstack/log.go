package main

import (
	"fmt"
	"io"
	"log/slog"
)

// newLogger writes the server's log to w: in one JSON object per line, with the keys of the original, for format json;
// as text otherwise.
func newLogger(w io.Writer, format string, level slog.Level) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level}
	switch format {
	case "", "rich", "standard":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		o.ReplaceAttr = originalKey
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("DSTACK_SERVER_LOG_FORMAT=%s: use standard, rich or json", format)
}

func originalKey(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		a.Key = "timestamp"
	case slog.MessageKey:
		a.Key = "message"
	}
	return a
}
