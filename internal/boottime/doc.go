// Package boottime is the clock that leases are counted by, on both sides of
// them. Go's own monotonic clock stands still while a machine sleeps, so that a
// leader or a node which slept would take itself to be in time.
package boottime
