package scope

import (
	"errors"
	"fmt"
)

// MaxNodeIDLen bounds a node id in bytes: ids stand in every record, log line
// and metric label.
const MaxNodeIDLen = 64

// ErrBadNodeID is wrapped by every error of [NodeID.Check].
var ErrBadNodeID = errors.New("not a valid node id")

// NodeID names a data node: 1 to [MaxNodeIDLen] of letters, digits, dot,
// underscore and dash, the first a letter or digit.
type NodeID string

// Check says why the id is not valid, or returns nil.
func (id NodeID) Check() error {
	if id == "" {
		return fmt.Errorf("%w: it is empty", ErrBadNodeID)
	}
	if len(id) > MaxNodeIDLen {
		return fmt.Errorf("%w: %q has %d bytes, the limit is %d", ErrBadNodeID, string(id), len(id), MaxNodeIDLen)
	}
	for i := range len(id) {
		c := id[i]
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fmt.Errorf("%w: %q has %q at byte %d; use letters, digits, dot, underscore and dash, a letter or digit first",
				ErrBadNodeID, string(id), c, i)
		}
	}
	return nil
}

// Failover says what happens to a scope whose owner's session expired.
type Failover uint8

// The values of Failover. The zero value is the default.
const (
	FailoverAuto   Failover = iota // the fallback becomes owner
	FailoverManual                 // nothing, until an operator acts
)

// Lease says whether the owner needs a valid lease to accept writes.
type Lease uint8

// The values of Lease. The zero value is the default.
const (
	LeaseAuto   Lease = iota // needed when there is a fallback and failover is auto
	LeaseAlways              // needed
	LeaseNever               // not needed; refused together with failover auto
)

// Scope is one declared prefix and who may write it. Tables hand out pointers
// to scopes that they share with every other version of the table: a Scope that
// came out of a Table must not be changed.
type Scope struct {
	Prefix   Prefix
	Writer   NodeID // the node declared for the scope
	Fallback NodeID // takes over while the writer is down; "" is none
	Owner    NodeID // the node that may write now: the writer, or its fallback
	Epoch    uint64 // fencing token of the owner's tenure; never reused in a cluster
	Failover Failover
	Lease    Lease
	Armed    bool   // the owner is known to know that it needs a lease
	Changed  uint64 // log index of the last change of options or ownership
	Quiesced NodeID // target of the move that holds the scope closed for writes; "" is none
	Released bool   // served although the cluster holds: an admin vouched for it after a restore
}

// New returns the scope that gives prefix to writer, without a fallback.
func New(prefix string, writer NodeID) Scope {
	return Scope{Prefix: Prefix(prefix), Writer: writer, Owner: writer}
}

// WithFallback returns the scope with id as the node that takes over while the
// writer is down.
func (s Scope) WithFallback(id NodeID) Scope {
	s.Fallback = id
	return s
}

// Matches reports whether key belongs to the scope.
func (s Scope) Matches(key []byte) bool { return s.Prefix.Matches(key) }

// NeedsLease reports whether the declared policy asks for a lease.
func (s Scope) NeedsLease() bool {
	switch s.Lease {
	case LeaseAlways:
		return true
	case LeaseNever:
		return false
	case LeaseAuto:
	}
	return s.Fallback != "" && s.Failover == FailoverAuto
}

// String is the name of the value in text forms.
func (f Failover) String() string {
	if f == FailoverManual {
		return "manual"
	}
	return "auto"
}

// ParseFailover reverses [Failover.String]; "" is the default.
func ParseFailover(text string) (Failover, error) {
	switch text {
	case "", "auto":
		return FailoverAuto, nil
	case "manual":
		return FailoverManual, nil
	}
	return 0, fmt.Errorf("failover %q is not known; use auto or manual", text)
}

// String is the name of the value in text forms.
func (l Lease) String() string {
	switch l {
	case LeaseAlways:
		return "always"
	case LeaseNever:
		return "never"
	case LeaseAuto:
	}
	return "auto"
}

// ParseLease reverses [Lease.String]; "" is the default.
func ParseLease(text string) (Lease, error) {
	switch text {
	case "", "auto":
		return LeaseAuto, nil
	case "always":
		return LeaseAlways, nil
	case "never":
		return LeaseNever, nil
	}
	return 0, fmt.Errorf("lease %q is not known; use auto, always or never", text)
}
