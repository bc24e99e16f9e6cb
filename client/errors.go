package client

import "github.com/scope-registry/scope-registry/internal/api"

// What a write that the guard does not acknowledge gets, for errors.Is. The error
// itself is an [*Error], for errors.As: it has the owner's id and address, and
// with QUIESCED a hint when to try again.
var (
	// ErrMisdirected: another node owns the key. Nothing was written.
	ErrMisdirected = &Error{Code: api.Misdirected}
	// ErrQuiesced: the scope is moving and nobody writes it; it soon has an owner
	// again. Nothing was written.
	ErrQuiesced = &Error{Code: api.Quiesced}
	// ErrLeaseLost: this node owns the key, but has no session or no valid lease now.
	// Nothing was written.
	ErrLeaseLost = &Error{Code: api.LeaseLost}
	// ErrCrossScope: the keys are not all in one scope. Nothing was written; split it.
	ErrCrossScope = &Error{Code: api.CrossScope}
	// ErrOutcomeUnknown: the write was executed, or may have been, and must not be
	// taken for done: the node has lost the scope, its session or its lease meanwhile.
	ErrOutcomeUnknown = &Error{Code: api.OutcomeUnknown}
)
