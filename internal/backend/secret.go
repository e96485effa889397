package backend

import "log/slog"

// Secret is a credential in a config. It is stored and sent as its text, and shows as stars
// wherever a value is printed or logged.
type Secret string

const stars = "***"

// String implements fmt.Stringer.
func (Secret) String() string { return stars }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return stars }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(stars) }

// Reveal is the credential, for the request that needs it.
func (s Secret) Reveal() string { return string(s) }
