// Package writes judges what clients were told about their writes: that what was
// acknowledged is still there, that nothing is there which was refused, and that no
// two tenures of a scope accepted writes at once. It knows nothing of how the
// writes came about.
package writes

import (
	"cmp"
	"fmt"
)

// Outcome is how an attempt to write ended.
type Outcome string

// The outcomes. What is Unknown may have been written or not, but not after the
// process that was asked has ended.
const (
	Acknowledged Outcome = "acknowledged"
	Refused      Outcome = "refused"
	Unknown      Outcome = "unknown"
)

// Token is the fencing token that a write was accepted under.
type Token struct {
	Incarnation uint64 `json:"incarnation"`
	Epoch       uint64 `json:"epoch"`
}

// Compare orders the tokens of a scope by their tenures.
func (t Token) Compare(o Token) int {
	return cmp.Or(cmp.Compare(t.Incarnation, o.Incarnation), cmp.Compare(t.Epoch, o.Epoch))
}

// String is incarnation/epoch.
func (t Token) String() string { return fmt.Sprintf("%d/%d", t.Incarnation, t.Epoch) }

// Op is one attempt of one client to write or delete a key at one node. Times are wall
// clock in nanoseconds since 1970, all of one machine. A key is written by one
// client, one attempt after the other, and after an Unknown not before the next
// Settle. No value is written twice.
type Op struct {
	Scope   string  `json:"scope"` // prefix
	Client  string  `json:"client"`
	Key     string  `json:"key"`
	Value   string  `json:"value,omitempty"`
	Deletes bool    `json:"deletes,omitempty"` // the key, instead of giving it the value
	Node    string  `json:"node"`
	Outcome Outcome `json:"outcome"`
	Code    string  `json:"code,omitempty"` // of what was not acknowledged
	Detail  string  `json:"detail,omitempty"`
	Call    int64   `json:"call_ns"`   // before it was sent
	Return  int64   `json:"return_ns"` // after the answer
	// What an acknowledgement says: its token, and when the write was under way at
	// the node, which held its admission then.
	Token Token `json:"token"`
	Began int64 `json:"began_ns"`
	Ended int64 `json:"ended_ns"`
}

// Record is a key as a node has it.
type Record struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Epoch uint64 `json:"epoch"` // that it was written under
}

// Finding is a broken promise.
type Finding struct{ Rule, What string }

// String is the rule and what broke it.
func (f Finding) String() string { return f.Rule + ": " + f.What }

// The rules.
const (
	RuleLost    = "lost write"      // acknowledged, and not there
	RuleGhost   = "ghost"           // there, and nobody wrote it, or it was refused
	RuleBack    = "came back"       // there, and was deleted, or had not been there when all stood still
	RuleEpoch   = "wrong epoch"     // there with another epoch than it was acknowledged under
	RuleTwice   = "key twice"       // in one dump
	RuleOwner   = "two acceptors"   // two nodes accepted under one token
	RuleOverlap = "overlap"         // two tenures accepted at once, or in the wrong order
	RuleSpan    = "impossible span" // a node's times do not lie within those of the client
)

func found(rule, format string, args ...any) Finding {
	return Finding{Rule: rule, What: fmt.Sprintf(format, args...)}
}
