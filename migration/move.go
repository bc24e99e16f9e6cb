package migration

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/scope"
)

// ErrWrongPhase is wrapped by the error that refuses a step which the move's
// phase does not allow.
var ErrWrongPhase = errors.New("wrong phase")

// ErrManifestMismatch is wrapped by the error of [Move.MatchReady] when the
// target holds other records than the source shipped.
var ErrManifestMismatch = errors.New("manifests differ")

// Phase is where a move stands.
type Phase uint8

// The phases. The zero value is no phase, so that a forgotten one shows.
const (
	Copying   Phase = iota + 1 // the source still accepts writes while it copies
	Quiescing                  // the source closes, drains and ships the rest
	Shipped                    // all records are with the target, not yet sealed
	Done                       // ownership has flipped
	Aborted                    // the source keeps the scope
)

var phaseNames = [...]string{Copying: "copying", Quiescing: "quiescing", Shipped: "shipped", Done: "done", Aborted: "aborted"}

// String is the phase in lower case.
func (p Phase) String() string {
	if int(p) < len(phaseNames) && phaseNames[p] != "" {
		return phaseNames[p]
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

// ParsePhase reverses [Phase.String].
func ParsePhase(text string) (Phase, error) {
	for p, name := range phaseNames {
		if name != "" && name == text {
			return Phase(p), nil
		}
	}
	return 0, fmt.Errorf("phase %q is not known", text)
}

// Mode says who speaks for source and target.
type Mode uint8

// The modes. Forced marks the record that a force leaves; it never runs.
const (
	Agent    Mode = iota // the nodes' agents, each bound to its session
	Assisted             // an operator, or a program around the operator's own ship command
	Forced
)

// String is the mode in lower case.
func (m Mode) String() string {
	switch m {
	case Assisted:
		return "assisted"
	case Forced:
		return "forced"
	case Agent:
	}
	return "agent"
}

// ParseMode reverses [Mode.String]; "" is agent.
func ParseMode(text string) (Mode, error) {
	switch text {
	case "", "agent":
		return Agent, nil
	case "assisted":
		return Assisted, nil
	case "forced":
		return Forced, nil
	}
	return 0, fmt.Errorf("mode %q is not known; use agent or assisted", text)
}

// Manifest sums up the records of a slice, in any order. In assisted moves it
// is what the operator gives, the zero value included.
type Manifest struct {
	Keys   uint64
	Bytes  uint64
	Digest string
}

// Stamp says when a move entered a phase.
type Stamp struct {
	Phase  Phase
	Index  uint64 // log index
	TimeMS int64  // leader's wall clock, milliseconds since 1970; for people, never compared
}

// Move is one MOVE-SCOPE from start to end.
type Move struct {
	ID       string
	Prefix   scope.Prefix
	From, To scope.NodeID
	Phase    Phase
	Mode     Mode
	PreCopy  bool   // began in copying
	Epoch    uint64 // of From's tenure at the start; every later step requires it still
	NewEpoch uint64 // of To's tenure, once done
	// Window bounds quiescing + shipped, Timeout the whole move.
	Window, Timeout time.Duration
	Actor, Reason   string
	Shipped, Ready  *Manifest
	Stamps          []Stamp // one per phase entered; never changed in place
	Cause, Detail   string  // why it aborted
	Finished        uint64  // position in the order of finishing, from 1; 0 while it runs
}

// Running reports whether the move has not ended.
func (m Move) Running() bool { return m.Phase == Copying || m.Phase == Quiescing || m.Phase == Shipped }

// Quiesced reports whether the move holds its scope closed for writes.
func (m Move) Quiesced() bool { return m.Phase == Quiescing || m.Phase == Shipped }

// Enter returns the move in phase p. The caller has made sure that p may follow.
func (m Move) Enter(p Phase, index uint64, timeMS int64) Move {
	m.Phase = p
	// A clipped slice, so that appending copies and never writes where another
	// version of the move looks.
	m.Stamps = append(slices.Clip(m.Stamps), Stamp{p, index, timeMS})
	return m
}

// Require returns an error that wraps [ErrWrongPhase] unless the move is in
// phase want. The message names the step that was asked for.
func (m Move) Require(step string, want Phase) error {
	if m.Phase == want {
		return nil
	}
	return phaseError{fmt.Sprintf("move %s is %s; %s is allowed only while it is %s", m.ID, m.Phase, step, want)}
}

// phaseError is an [ErrWrongPhase] whose text stands beside the code of the same name.
type phaseError struct{ text string }

// Error says which move is in which phase.
func (e phaseError) Error() string { return e.text }

// Unwrap is ErrWrongPhase.
func (e phaseError) Unwrap() error { return ErrWrongPhase }

// MatchReady compares the target's manifest with what the source shipped.
func (m Move) MatchReady(target Manifest) error {
	var source Manifest
	if m.Shipped != nil {
		source = *m.Shipped
	}
	if source == target {
		return nil
	}
	return fmt.Errorf("%w: the source shipped %d keys, %d bytes, digest %q; the target holds %d keys, %d bytes, digest %q",
		ErrManifestMismatch, source.Keys, source.Bytes, source.Digest, target.Keys, target.Bytes, target.Digest)
}

// Entered returns the stamp of phase p, if the move was ever in it.
func (m Move) Entered(p Phase) (Stamp, bool) {
	for _, s := range m.Stamps {
		if s.Phase == p {
			return s, true
		}
	}
	return Stamp{}, false
}

// QuiescedMS is for how many milliseconds the scope took no writes, up to the
// end of the move or, while it runs, up to nowMS. Wall clocks may step back; it
// is never negative.
func (m Move) QuiescedMS(nowMS int64) int64 {
	from, ok := m.Entered(Quiescing)
	if !ok {
		return 0
	}
	end := nowMS
	if !m.Running() {
		end = m.Stamps[len(m.Stamps)-1].TimeMS
	}
	return max(0, end-from.TimeMS)
}
