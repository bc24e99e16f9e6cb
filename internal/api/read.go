package api

import "time"

// ReadOptions say how fresh a read must be.
type ReadOptions struct {
	// Consistency is "local" (or ""), or "linearizable": everything acknowledged before the call is seen.
	Consistency string
	// MinIndex is waited for; 0 is no wait.
	MinIndex uint64
	// MaxStale refuses a local read on a server that has not heard of the leader for longer; 0 is no bound.
	MaxStale time.Duration
}
