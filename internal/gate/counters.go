package gate

import "sync/atomic"

// counters are what a gate counts.
type counters struct {
	unknownCommands atomic.Uint64 // refused: neither the table nor the store knew them
	refused         atomic.Uint64 // commands that no client may use
	turnedAway      atomic.Uint64 // by the keys
	unknown         atomic.Uint64 // executed and not acknowledged
	limbo           atomic.Int64  // writes of broken connections whose end is not known yet
}
