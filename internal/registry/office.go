package registry

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// errNotInOffice turns away what only the leader can answer. It is asked for again: an election may be under way, or a
// new leader may not have confirmed its state yet.
var errNotInOffice = errors.New("this server does not lead, or has not led for long enough")

// office is one time as the leader: from its first confirm until this server hears that it leads no more. What it has
// counted ends with it.
type office struct {
	state func() fsm.State
	clock func() time.Duration

	// mu guards the ledger; a renewal is judged and an expiry proposed in the same critical section ◆. In two of them a
	// renewal could be granted after its session's expiry was on its way, and the node would write beside its successor.
	mu     sync.Mutex
	ledger fsm.Ledger
	over   bool
	stir   context.CancelFunc // ends the leader's rest
}

func newOffice(ledger fsm.Ledger, state func() fsm.State, clock func() time.Duration) *office {
	return &office{ledger: ledger, state: state, clock: clock, stir: func() {}}
}

// end makes the office answer nobody any more: what it knows is not what the next leader counts.
func (o *office) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
}

// reconcile says what to propose now, or that this comes too late: then nothing was judged, and restart comes first.
// Lateness and deadlines are of one reading of the clock, or a pause between two would go unnoticed.
func (o *office) reconcile() (s fsm.State, out []fsm.Directive, due time.Duration, late bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s = o.state()
	now := o.clock()
	if o.ledger.Late(now) {
		return s, nil, 0, true
	}
	o.ledger, out, due = fsm.Reconcile(s, o.ledger, now)
	return s, out, due, false
}

// restart gives every session and move its full time again.
func (o *office) restart() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ledger = o.ledger.Restart()
}

// judge decides about what a node said, by the newest state and the time now. A *definite error says that this is not the
// leader to ask; an *api.Error is the decision.
func (o *office) judge(decide func(l fsm.Ledger, s fsm.State, now time.Duration) (fsm.Ledger, error)) (fsm.State, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return fsm.State{}, &definite{errNotInOffice}
	}
	s := o.state()
	ledger, err := decide(o.ledger, s, o.clock())
	if o.ledger = ledger; ledger.Urgent() {
		o.stir()
	}
	return s, err
}

// leading is what the ledger shows.
func (o *office) leading() ([]api.LeaseState, map[string]api.Progress, error) {
	o.mu.Lock()
	ledger, over, s, now := o.ledger, o.over, o.state(), o.clock()
	o.mu.Unlock()
	if over {
		return nil, nil, &definite{errNotInOffice}
	}
	leases, progress := ledger.Leading(s, now) // a walk over all sessions, outside of the lock
	return leases, progress, nil
}

// rest waits until the state has moved on to an index, it is due (0 is never), or a node said what cannot wait.
func (o *office) rest(ctx context.Context, f *fsm.FSM, index uint64, due time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.mu.Lock()
	urgent, now := o.ledger.Urgent(), o.clock()
	o.stir = cancel
	o.mu.Unlock()
	if urgent {
		return
	}
	if due > 0 {
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, max(due-now, time.Millisecond))
		defer done()
	}
	_ = f.WaitIndex(ctx, index) // either way it is time to look again
}
