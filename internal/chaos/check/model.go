package check

import (
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// phase is where the running move of a scope stands; "" is no move.
type phase string

const (
	copying   phase = "copying"
	quiescing phase = "quiescing"
	shipped   phase = "shipped"
)

// scopeState is what the registry holds of one prefix. It is comparable.
type scopeState struct {
	declared        bool
	owner, fallback string
	// epoch is 0 while nobody knows it: it was given by an operation whose reply
	// was lost. The next reply that names it binds it.
	epoch   uint64
	floor   uint64 // highest epoch that was known before the current tenure
	retired string // owner that a retire left behind

	move, to string // the running move and its target
	phase    phase
	manifest string

	owed string // cleanups as " node=move" in order
}

// step is the sequential specification: what one operation does to the scope,
// and whether it can have ended as it did.
func step(s scopeState, op *history.Op) (bool, scopeState) {
	s, ok := s.learn(op)
	if !ok {
		return false, s
	}
	next, code := s.apply(op)
	switch op.Outcome {
	case history.OK:
		if code != "" || op.Kind == history.Read && !s.shows(op.Got.Scope) {
			return false, s
		}
		return next.bind(s, op)
	case history.Refused:
		return code == op.Code || code == api.WrongPhase && op.Code == api.NotFound && s.move != op.Arg.Move, next
	case history.Unknown:
		return true, next
	case history.Failed: // not part of what is checked: it had no effect and tells nothing
	}
	return true, s
}

// learn binds an epoch that nobody knew to what the reply says it is.
func (s scopeState) learn(op *history.Op) (scopeState, bool) {
	if !s.declared || s.epoch != 0 {
		return s, true
	}
	said := uint64(0)
	switch {
	case op.Outcome == history.Refused && op.Got.Epoch != 0:
		said = op.Got.Epoch
	case op.Outcome != history.OK:
	case op.Kind == history.Read && op.Got.Scope != nil:
		said = op.Got.Scope.Epoch
	case op.Kind == history.Cleaned: // speaks of an earlier tenure
	case op.Kind == history.Declare && op.Arg.Epoch == 0:
		said = op.Got.Epoch
	case op.Kind == history.Declare || op.Kind == history.Retire:
		said = op.Arg.Epoch
	default:
		said = op.Got.Tenure
	}
	if said == 0 {
		return s, true
	}
	s.epoch = said
	return s, said > s.floor
}

// bind gives a new tenure the epoch of the reply, and compares what the reply
// says about the current one.
func (s scopeState) bind(before scopeState, op *history.Op) (bool, scopeState) {
	if op.Kind == history.Read || op.Kind == history.Cleaned || op.Kind == history.Retire {
		return true, s
	}
	if s.epoch == 0 && op.Got.Epoch != 0 {
		s.epoch = op.Got.Epoch
		return s.epoch > s.floor && (op.Kind != history.Ready || op.Got.Tenure == before.epoch || before.epoch == 0), s
	}
	return op.Got.Epoch == s.epoch, s
}

// apply returns the state after the operation and the code it must have been
// refused with, "" if it was applied. One refusal changes the state too.
func (s scopeState) apply(op *history.Op) (scopeState, api.Code) {
	switch op.Kind {
	case history.Declare:
		return s.declare(op.Arg)
	case history.Retire:
		return s.retire(op.Arg)
	case history.Start:
		return s.start(op.Arg)
	case history.Quiesce:
		return s.advance(op.Arg, copying, quiescing)
	case history.Shipped:
		next, code := s.advance(op.Arg, quiescing, shipped)
		if code == "" {
			next.manifest = op.Arg.Manifest
		}
		return next, code
	case history.Ready:
		return s.ready(op.Arg)
	case history.Abort:
		if s.move != op.Arg.Move {
			return s, api.WrongPhase
		}
		return s.still(), ""
	case history.Cleaned:
		return s.cleaned(op.Arg)
	case history.Read:
		if !s.declared {
			return s, api.NotFound
		}
	case history.Local: // may be as old as its server
	}
	return s, ""
}

// busy is why options, declare and retire must wait, or "".
func (s scopeState) busy() api.Code {
	switch {
	case s.move != "":
		return api.MoveInFlight
	case s.owed != "":
		return api.CleanupPending
	}
	return ""
}

func (s scopeState) declare(a history.Arg) (scopeState, api.Code) {
	switch {
	case a.Fallback == a.Writer:
		return s, api.Invalid
	case a.Epoch != 0 && (!s.declared || a.Epoch != s.epoch):
		return s, api.StaleEpoch
	case s.declared && a.Writer != s.owner:
		return s, api.Exists
	case s.declared && a.Fallback == s.fallback:
		return s, ""
	case s.busy() != "":
		return s, s.busy()
	case !s.declared && s.retired != "" && s.retired != a.Writer:
		return s, api.Overlap
	}
	if !s.declared {
		s = s.tenure(a.Writer)
		s.declared, s.retired = true, ""
	}
	s.fallback = a.Fallback
	return s, ""
}

// tenure begins the next tenure, whose epoch only the reply knows.
func (s scopeState) tenure(owner string) scopeState {
	s.floor = max(s.floor, s.epoch)
	s.owner, s.epoch = owner, 0
	return s
}

func (s scopeState) retire(a history.Arg) (scopeState, api.Code) {
	switch {
	case !s.declared:
		return s, api.NotFound
	case a.Epoch != 0 && a.Epoch != s.epoch:
		return s, api.StaleEpoch
	case s.busy() != "":
		return s, s.busy()
	}
	return scopeState{floor: max(s.floor, s.epoch), retired: s.owner}, ""
}

func (s scopeState) start(a history.Arg) (scopeState, api.Code) {
	switch {
	case !s.declared:
		return s, api.NotFound
	case s.move != "":
		return s, api.MoveInFlight
	case a.From != s.owner:
		return s, api.NotOwner
	case a.To == a.From:
		return s, api.Invalid
	case a.Epoch != 0 && a.Epoch != s.epoch:
		return s, api.StaleEpoch
	case s.owes(a.To) != "":
		return s, api.CleanupPending
	}
	s.move, s.to, s.phase = a.Move, a.To, quiescing
	if a.PreCopy {
		s.phase = copying
	}
	return s, ""
}

func (s scopeState) advance(a history.Arg, from, to phase) (scopeState, api.Code) {
	if s.move != a.Move || s.phase != from {
		return s, api.WrongPhase
	}
	s.phase = to
	return s, ""
}

func (s scopeState) ready(a history.Arg) (scopeState, api.Code) {
	switch {
	case s.move != a.Move || s.phase != shipped:
		return s, api.WrongPhase
	case s.manifest != a.Manifest:
		return s.still(), api.ManifestMismatch
	}
	from, move, to := s.owner, s.move, s.to
	s = s.still().tenure(to)
	if s.fallback == to {
		s.fallback = ""
	}
	if s.fallback != from {
		s.owed = owing(append(strings.Fields(s.owed), from+"="+move))
	}
	return s, ""
}

// still is the scope without its move.
func (s scopeState) still() scopeState {
	s.move, s.to, s.phase, s.manifest = "", "", "", ""
	return s
}

// owes is the move whose copy a node still has to delete, or "".
func (s scopeState) owes(node string) string {
	for _, o := range strings.Fields(s.owed) {
		if n, move, _ := strings.Cut(o, "="); n == node {
			return move
		}
	}
	return ""
}

func owing(all []string) string {
	slices.Sort(all)
	return strings.Join(all, " ")
}

// cleaned goes by the move. The registry goes by node and epoch, which is the
// same for a move that is done; clients give this word for no other.
func (s scopeState) cleaned(a history.Arg) (scopeState, api.Code) {
	switch s.owes(a.From) {
	case "":
		return s, api.NotFound
	case a.Move:
	default:
		return s, api.StaleEpoch
	}
	left := strings.Fields(s.owed)
	left = slices.DeleteFunc(left, func(o string) bool { return o == a.From+"="+a.Move })
	s.owed = owing(left)
	return s, ""
}

// shows reports whether a read that returned got saw this state.
func (s scopeState) shows(got *api.Scope) bool {
	if got == nil || !s.declared {
		return false
	}
	state, target := "owned", ""
	if s.phase == quiescing || s.phase == shipped {
		state, target = "quiesced", s.to
	}
	var owed []string
	for _, c := range got.Cleanups {
		owed = append(owed, c.Node+"="+c.Move)
	}
	return got.Owner == s.owner && got.Writer == s.owner && got.Fallback == s.fallback && got.Epoch == s.epoch &&
		got.Move == s.move && got.State == state && got.Target == target && owing(owed) == s.owed
}
