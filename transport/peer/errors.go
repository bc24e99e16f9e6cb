package peer

import (
	"errors"
	"fmt"
)

// Sentinels of Mux.Call. Every error it returns is exactly one of: one that is ErrNotSent, one that is
// ErrOutcomeUnknown, a *RemoteError. Errors of the context stay visible to errors.Is beside them.
var (
	// ErrNotSent says that the request surely never reached the handler of the other server, whole or in part.
	ErrNotSent = errors.New("not sent")

	// ErrOutcomeUnknown says that the request may have reached the other server, and that its answer will not come.
	ErrOutcomeUnknown = errors.New("outcome unknown")
)

// RemoteError is what the handler of the other server answered instead of a result.
type RemoteError struct {
	// Addr is the address that was called.
	Addr string
	// Text is the text of the handler's error.
	Text string
}

// Error implements error.
func (e *RemoteError) Error() string {
	return fmt.Sprintf("server at %s answered: %s", e.Addr, e.Text)
}

// RefusedError says that the other side of a dialed connection is not one to talk to, in its own words or by what
// it said of itself in the handshake.
type RefusedError struct {
	// Addr is the address that was dialed.
	Addr string
	// ID is the id the other server gave, "" when it gave none.
	ID string
	// Reason is the reason and what to do.
	Reason string
}

// Error implements error.
func (e *RefusedError) Error() string {
	who := ""
	if e.ID != "" {
		who = fmt.Sprintf(" (server %q)", e.ID)
	}
	return fmt.Sprintf("no connection with %s%s: %s", e.Addr, who, e.Reason)
}

func notSent(addr string, kind Kind, cause error) error {
	return fmt.Errorf("call %v to %s: %w; it can be tried again, here or at another server: %w", kind, addr, ErrNotSent, cause)
}

func outcomeUnknown(addr string, kind Kind, cause error) error {
	return fmt.Errorf("call %v to %s: %w; try again with the same request id only: %w", kind, addr, ErrOutcomeUnknown, cause)
}
