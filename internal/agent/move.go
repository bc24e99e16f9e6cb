package agent

import (
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Drained answers an [AwaitDrain].
type Drained struct{ Move string }

// Progressed says how far the source's copying or shipping is.
type Progressed struct {
	Move                string
	Keys, Bytes         uint64 // sent so far
	KeysLeft, BytesLeft uint64 // estimated
	Early               bool   // a little later much less will be left
}

// Shipped says that the target holds all records of the closed scope.
type Shipped struct {
	Move     string
	Manifest migration.Manifest // of the records sent, not of the live store
}

// ShipFailed says that the slice cannot be copied or shipped, or, of a move to
// this node, received or sealed, and why. Whatever was begun for it has ended.
type ShipFailed struct{ Move, Reason string }

// Staging says that a stream of records for the move was accepted.
type Staging struct{ Move string }

// Received says that the last stream of a move is complete.
type Received struct {
	Move     string
	Manifest migration.Manifest // of the records received
}

// Sealed says that the staged slice and its [Mark] are durable.
type Sealed struct{ Mark Mark }

// Promoted says that the staged slice has replaced what the store held of the
// prefix, and that its mark says so, durably.
type Promoted struct{ Move string }

// Discarded says that the staging of a move is gone.
type Discarded struct{ Move string }

// Deleted says how the deletion of an old copy went.
type Deleted struct {
	Prefix scope.Prefix
	Epoch  uint64
	Done   bool // no record is left; else the rules in force did not allow to go on
}

func (Drained) event()    {}
func (Progressed) event() {}
func (Shipped) event()    {}
func (ShipFailed) event() {}
func (Staging) event()    {}
func (Received) event()   {}
func (Sealed) event()     {}
func (Promoted) event()   {}
func (Discarded) event()  {}
func (Deleted) event()    {}

// Slice is what moves: the records of a prefix, for one move.
type Slice struct {
	Move   string
	Prefix scope.Prefix
}

// AwaitDrain is answered once no write counts under the prefix and no delete runs
// there, see [Admission.Drained]. Without a move it is about all writes, see
// [Admission.Idle].
type AwaitDrain struct{ Slice }

// Copy sends the records to the target while the source goes on writing.
type Copy struct {
	Slice
	To scope.NodeID
}

// Ship sends what the target lacks of the scope, which is closed and drained.
type Ship struct {
	Slice
	To scope.NodeID
}

// StopShipping ends what Copy or Ship began, and the wait for a drain that was not
// answered yet.
type StopShipping struct{ Move string }

// Seal makes the staged slice, and the mark, durable. No record is added from
// here on: who takes records asks [Rules.Stages] for every batch, under whatever
// keeps batches and the seal of one move apart.
type Seal struct{ Mark Mark }

// Promote replaces what the store holds of the prefix by the staged slice. It is
// asked for once in a process; one that died on the way has it done again by the
// next, before anything of the prefix is admitted.
type Promote struct{ Slice }

// Discard deletes the staging of a move that ended without it, and its mark; or
// just the mark of a slice that was promoted long ago. Records that are in the
// store stay.
type Discard struct{ Move string }

// Delete deletes the old copy, each batch between [Admission.BeginDelete] and
// [Admission.EndDelete].
type Delete struct {
	Prefix scope.Prefix
	Epoch  uint64
}

// Tell reports progress to the registry.
type Tell struct{ Report api.Report }

// Say is something that goes into the log. It is repeated until the view shows
// what came of it.
type Say struct{ Word Word }

// Kind is what a word says.
type Kind uint8

// The words of a node.
const (
	SayShipped Kind = iota + 1
	SayReady
	SayAbort
	SayCleaned
	SayClose
)

// Word is what a node says, with the session it speaks by. What is empty does not
// belong to its kind.
type Word struct {
	Kind     Kind
	Session  string
	Move     string
	Manifest migration.Manifest // SayShipped, SayReady
	Reason   string             // SayAbort
	Prefix   scope.Prefix       // SayCleaned
	Epoch    uint64             // SayCleaned
}

func (AwaitDrain) effect()   {}
func (Copy) effect()         {}
func (Ship) effect()         {}
func (StopShipping) effect() {}
func (Seal) effect()         {}
func (Promote) effect()      {}
func (Discard) effect()      {}
func (Delete) effect()       {}
func (Tell) effect()         {}
func (Say) effect()          {}

// moveEvent takes what became of the effects of a move.
func (t *step) moveEvent(e Event) {
	switch e := e.(type) {
	case WatchEnded:
		t.watchEnded(e)
	case Drained:
		t.drained(e)
	case Progressed:
		if m, running := t.view.Move(e.Move); running && m.From == t.cfg.Node && t.Ready() {
			t.do(Tell{api.Report{Move: e.Move, Session: t.session.id, Keys: e.Keys, Bytes: e.Bytes, KeysLeft: e.KeysLeft, BytesLeft: e.BytesLeft, Early: e.Early}})
		}
	case Shipped:
		t.changeSource(e.Move, func(x *source) {
			if x.shipping && !x.shipped {
				x.shipped, x.manifest, x.sayAt = true, e.Manifest, t.now
			}
		})
	case ShipFailed:
		t.shipFailed(e)
	case Staging:
		t.stagingBegan(e)
	case Received:
		t.received(e)
	case Sealed:
		t.sealed(e)
	case Promoted:
		t.promoted(e)
	case Discarded:
		t.discarded(e)
	case Deleted:
		t.deleted(e)
	}
}

// drained goes on with what waited. A scope that was opened again meanwhile does
// not come here: its wait ended with its move.
func (t *step) drained(e Drained) {
	if e.Move == "" {
		if t.closing.draining && !t.closing.said {
			t.closing.said, t.closing.sayAt = true, t.now
		}
		return
	}
	t.drainedTarget(e.Move)
	m, running := t.view.Move(e.Move)
	t.changeSource(e.Move, func(x *source) {
		if running && m.Phase == migration.Quiescing && x.draining && !x.shipping {
			x.shipping = true
			t.do(Ship{x.Slice, m.To})
		}
	})
}
