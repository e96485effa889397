// Package scheduler matches what jobs need with what instances and offers have. It is pure:
// values in, values out, with the reason for every exclusion.
package scheduler
