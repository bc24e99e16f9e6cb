package check

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// drawOp draws an operation that mostly fits the state, so that all phases are
// reached, and sometimes does not, so that all refusals are.
func drawOp(t *rapid.T, r *rig, moves []string) (history.Kind, history.Arg) {
	node := rapid.SampledFrom([]string{"a", "b", "c"})
	a := history.Arg{Writer: node.Draw(t, "writer"), Fallback: rapid.SampledFrom([]string{"", "a", "b", "c", "v1", "v2"}).Draw(t, "fallback"),
		From: node.Draw(t, "from"), To: node.Draw(t, "to"), Manifest: rapid.SampledFrom([]string{"m", "m", "m", "n"}).Draw(t, "manifest"),
		PreCopy: rapid.Bool().Draw(t, "precopy")}
	for sc := range r.state.Scopes().Scopes() {
		if rapid.IntRange(0, 4).Draw(t, "fitting") > 0 {
			a.Writer, a.From = string(sc.Owner), string(sc.Owner)
		}
		a.Epoch = rapid.SampledFrom([]uint64{0, sc.Epoch, sc.Epoch, sc.Epoch - 1}).Draw(t, "epoch")
	}
	kind := rapid.SampledFrom([]history.Kind{history.Declare, history.Declare, history.Retire, history.Start, history.Start, history.Quiesce,
		history.Shipped, history.Ready, history.Abort, history.Cleaned, history.Cleaned, history.Read}).Draw(t, "kind")
	for m := range r.state.Moves().Running() {
		if rapid.Bool().Draw(t, "go on") {
			kind = map[string]history.Kind{"copying": history.Quiesce, "quiescing": history.Shipped, "shipped": history.Ready}[m.Phase.String()]
		}
	}
	switch {
	case kind == history.Start || len(moves) == 0:
		a.Move = fmt.Sprintf("mv-%d", len(moves)+1)
	case rapid.IntRange(0, 3).Draw(t, "old") > 0:
		a.Move = moves[len(moves)-1]
	default:
		a.Move = rapid.SampledFrom(moves).Draw(t, "move")
	}
	if m, ok := r.state.Moves().Get(a.Move); ok && m.Phase.String() == "aborted" && kind == history.Cleaned {
		kind = history.Read // clients give this word for moves they know to be done
	}
	if m, ok := r.state.Moves().Get(a.Move); ok && kind != history.Start {
		a.From, a.To = string(m.From), string(m.To) // who names a move knows what it is
	}
	return kind, a
}

// TestModelIsTheStateMachine does the same things to the model and to the real
// state machine: whatever the real one answers, the model allows. Some answers
// are lost, as they are in a run; the model must find out later what happened.
func TestModelIsTheStateMachine(t *testing.T) {
	codes := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t)
		var moves []string
		s := scopeState{}
		for range 60 {
			kind, a := drawOp(t, r, moves)
			op := r.do("s1", kind, "p:", a)
			if kind == history.Start && op.Outcome == history.OK {
				moves = append(moves, a.Move)
			}
			codes[fmt.Sprintf("%s %s", op.Kind, op.Code)]++
			if kind.Mutates() && rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
				op.Outcome, op.Code, op.Got = history.Unknown, "", history.Got{}
			}
			ok, next := step(s, &op)
			if !ok {
				t.Fatalf("the model in state %+v does not allow %+v", s, op)
			}
			s = next
			// A client learns an epoch by reading, which tells the model too.
			if op.Outcome == history.Unknown {
				read := r.do("s1", history.Read, "p:", history.Arg{})
				if ok, s = step(s, &read); !ok {
					t.Fatalf("the model in state %+v does not allow %+v after the lost %+v", s, read, op)
				}
			}
		}
	})
	for _, want := range []string{"declare ", "declare STALE_EPOCH", "declare EXISTS", "declare MOVE_IN_FLIGHT", "declare CLEANUP_PENDING", "declare OVERLAP",
		"declare INVALID", "retire ", "retire STALE_EPOCH", "retire MOVE_IN_FLIGHT", "retire CLEANUP_PENDING", "retire NOT_FOUND", "start ", "start NOT_OWNER",
		"start STALE_EPOCH", "start MOVE_IN_FLIGHT", "start CLEANUP_PENDING", "start NOT_FOUND", "start INVALID", "quiesce ", "quiesce WRONG_PHASE", "shipped ",
		"shipped WRONG_PHASE", "ready ", "ready WRONG_PHASE", "ready MANIFEST_MISMATCH", "abort ", "abort WRONG_PHASE", "cleaned ", "cleaned NOT_FOUND"} {
		if codes[want] == 0 {
			t.Errorf("%q never came up: %v", want, codes)
		}
	}
}

// TestModelRefuses changes one thing in an answer of the real state machine:
// the model allows it no more.
func TestModelRefuses(t *testing.T) {
	r := newRig(t)
	s := scopeState{}
	take := func(op history.Op) {
		t.Helper()
		ok, next := step(s, &op)
		if !ok {
			t.Fatalf("%+v is not allowed in %+v", op, s)
		}
		s = next
	}
	a := history.Arg{Writer: "a", Fallback: "v1"}
	take(r.do("s1", history.Declare, "p:", a))
	take(r.do("s1", history.Start, "p:", history.Arg{Move: "m1", From: "a", To: "b"}))
	read := r.do("s1", history.Read, "p:", history.Arg{})
	take(read)
	for name, change := range map[string]func(*history.Op){
		"owner":     func(op *history.Op) { op.Got.Scope.Owner = "b" },
		"fallback":  func(op *history.Op) { op.Got.Scope.Fallback = "v2" },
		"epoch":     func(op *history.Op) { op.Got.Scope.Epoch++ },
		"move":      func(op *history.Op) { op.Got.Scope.Move = "" },
		"state":     func(op *history.Op) { op.Got.Scope.State = "owned" },
		"target":    func(op *history.Op) { op.Got.Scope.Target = "c" },
		"no scope":  func(op *history.Op) { op.Outcome, op.Code = history.Refused, "NOT_FOUND" },
		"a success": func(op *history.Op) { op.Kind, op.Arg = history.Declare, history.Arg{Writer: "a", Fallback: "v2"} },
		"a refusal": func(op *history.Op) {
			op.Kind, op.Outcome, op.Code, op.Arg = history.Abort, history.Refused, "WRONG_PHASE", history.Arg{Move: "m1"}
		},
	} {
		op := read
		shown := *read.Got.Scope
		op.Got.Scope = &shown
		change(&op)
		if ok, _ := step(s, &op); ok {
			t.Errorf("a read with another %s is allowed: %+v in %+v", name, op, s)
		}
	}
}
