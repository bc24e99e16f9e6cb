package agent

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// Admission counts the writes between the router and the store, and is where
// they meet what Step decides: a writer counts itself and then looks at the rules
// again, while who closes a scope publishes the rules and then looks at the
// count. One of the two sees the other. All methods may be called from any
// goroutine; none takes a lock.
type Admission struct {
	rules atomic.Pointer[Rules]
	// deleting is the prefix of which old records are being deleted; nil is none.
	deleting atomic.Pointer[scope.Prefix]
}

// NewAdmission returns one in which the first rules of a state are in force:
// nothing is admitted.
func NewAdmission(s State) *Admission {
	a := &Admission{}
	a.rules.Store(s.rules)
	return a
}

// Publish puts the rules of an [Effect] in force.
func (a *Admission) Publish(r *Rules) { a.rules.Store(r) }

// Rules are those in force.
func (a *Admission) Rules() *Rules { return a.rules.Load() }

// Clock reads the node's CLOCK_BOOTTIME. It is read only where a lease is needed:
// that costs as much as all the rest.
type Clock func() time.Duration

// Ticket is one admitted write, or several of one scope.
type Ticket struct {
	rules  *Rules
	place  *place // nil if no scope holds the keys
	gate   *gate
	stripe uint32
}

// Token is the fencing token that the write was admitted under; a store may keep
// it beside the value.
func (t *Ticket) Token() Token {
	if t.place == nil {
		return Token{Incarnation: t.rules.view.incarnation}
	}
	return t.place.token
}

// Leased reports whether the write needs a lease.
func (t *Ticket) Leased() bool { return t.place != nil && t.place.needsLease }

// Scoped reports whether a scope holds the keys. Only then may [Admission.CheckScope]
// be asked.
func (t *Ticket) Scoped() bool { return t.place != nil }

// Enter admits a write of key and counts it, or says why not: MISDIRECTED with
// the owner, QUIESCED with where the scope goes, or LEASE_LOST. Stripe may be any
// number; goroutines that use different ones do not share a counter. After Enter the write is executed, then comes
// [Admission.Check], then [Admission.Leave].
func (a *Admission) Enter(key []byte, clock Clock, stripe uint32) (Ticket, error) {
	for {
		r := a.rules.Load()
		p, g, err := r.judge(key, clock)
		if err != nil {
			return Ticket{}, err
		}
		g.enter(stripe)
		// Counted; now look again. Rules that came in between may have closed the
		// scope, and who made them has perhaps found the count to be 0 already.
		if a.rules.Load() != r {
			g.leave(stripe)
			continue
		}
		if err := a.latched(r, key); err != nil {
			g.leave(stripe)
			return Ticket{}, err
		}
		return Ticket{rules: r, place: p, gate: g, stripe: stripe}, nil
	}
}

// Owns says whether a write of key would be admitted now, without admitting one:
// nil, or the refusal.
func (a *Admission) Owns(key []byte, clock Clock) error {
	if _, _, err := a.rules.Load().judge(key, clock); err != nil {
		return err
	}
	return nil
}

// latched refuses a key of which an old copy is being deleted just now. It is
// asked for after the write was counted: who deletes looks at the count after it
// has closed the latch.
func (a *Admission) latched(r *Rules, key []byte) error {
	d := a.deleting.Load()
	if d == nil || !d.Matches(key) {
		return nil
	}
	return &api.Error{Code: api.Quiesced, Owner: string(r.node), Addr: r.view.Addr(r.node), RetryMS: retryMS, Detail: fmt.Sprintf(
		"node %q is still deleting an old copy of %q; try again", r.node, *d)}
}

// EnterKeys admits one write of several keys, which must all be in one scope, or
// in none: CROSS_SCOPE otherwise, whoever owns them, as no other node would take
// the write either.
func (a *Admission) EnterKeys(keys [][]byte, clock Clock, stripe uint32) (Ticket, error) {
	if len(keys) == 0 {
		return Ticket{}, &api.Error{Code: api.Invalid, Detail: "a write of no keys; name at least one"}
	}
	t, err := a.Enter(keys[0], clock, stripe)
	if err != nil {
		if cross := a.rules.Load().crossing(keys); cross != nil {
			return Ticket{}, cross
		}
		return Ticket{}, err
	}
	for _, key := range keys[1:] {
		_, g, refusal := t.rules.judge(key, clock)
		if refusal == nil && g == t.gate {
			// What is being deleted may be narrower than the scope.
			if err := a.latched(t.rules, key); err != nil {
				t.gate.leave(stripe)
				return Ticket{}, err
			}
			continue
		}
		t.gate.leave(stripe)
		return Ticket{}, t.rules.cross(keys[0], key)
	}
	return t, nil
}

// Check says whether the write may be acknowledged: its scope is of the same
// tenure, the session is the one it was admitted under, and the lease holds. If
// not, the answer to the client is OUTCOME_UNKNOWN: the write has executed, and
// may be lost. It is called after the store has answered.
func (a *Admission) Check(t *Ticket, key []byte, clock Clock) error {
	r := a.rules.Load()
	if r == t.rules && (!t.Leased() || clock() < r.until) || r != t.rules && r.still(t, key, clock) {
		return nil
	}
	return r.unsure(t, "key", scope.BytesText(string(key)))
}

// CheckScope is Check without the keys, for who does not keep them until the store
// answers. The ticket must be Scoped: of keys that no scope held, another node may
// own some by now.
func (a *Admission) CheckScope(t *Ticket, clock Clock) error {
	r := a.rules.Load()
	if r == t.rules && (!t.Leased() || clock() < r.until) {
		return nil
	}
	// A scope that was declared anew, wider or narrower, has another epoch: the prefix
	// does for every key of it.
	p := t.place.scope.Prefix
	if r != t.rules && r.still(t, []byte(p), clock) {
		return nil
	}
	return r.unsure(t, "scope", p.Text())
}

// CheckKeys is Check for a write of several keys: of those that no scope held,
// any may belong to another node by now.
func (a *Admission) CheckKeys(t *Ticket, keys [][]byte, clock Clock) error {
	for _, key := range keys {
		if err := a.Check(t, key, clock); err != nil {
			return err
		}
	}
	return nil
}

// Leave takes the write out of the count. It is called once the store has
// answered, or it is certain that the write cannot execute any more; never
// because a client left or a timeout passed.
func (a *Admission) Leave(t *Ticket) { t.gate.leave(t.stripe) }

// Drained reports whether no write counts under the prefix and no delete runs
// there. Once it is true none executes there while the rules in force admit none:
// a writer that still has older rules may count for a moment, and leaves again.
func (a *Admission) Drained(p scope.Prefix) bool {
	r := a.rules.Load()
	if d := a.deleting.Load(); d != nil && d.Overlaps(p) {
		return false
	}
	for _, g := range r.gates.Overlapping(p) {
		if !g.idle() {
			return false
		}
	}
	for _, g := range r.older {
		if !g.idle() {
			return false
		}
	}
	return true
}

// Idle reports whether no write counts anywhere.
func (a *Admission) Idle() bool { return a.Drained("") && a.rules.Load().unknown.idle() }

// BeginDelete asks to delete a batch of the records that a cleanup is about, and
// keeps writes out of the prefix until [Admission.EndDelete]. It is false if the
// rules in force do not allow it, writes still count there, or another batch runs.
func (a *Admission) BeginDelete(p scope.Prefix, epoch uint64) bool {
	if !a.Drained(p) || !a.deleting.CompareAndSwap(nil, &p) {
		return false
	}
	// Only now are the rules looked at: a writer admitted by later ones sees the
	// latch.
	if !a.rules.Load().deletable(p, epoch) {
		a.deleting.Store(nil)
		return false
	}
	return true
}

// EndDelete ends what BeginDelete allowed, once none of its deletes can execute
// any more.
func (a *Admission) EndDelete() { a.deleting.Store(nil) }

// gate counts the writes of one scope, in stripes so that cores do not share a
// cache line.
type gate struct{ stripes []stripe }

type stripe struct {
	n atomic.Int64
	_ [56]byte // a cache line of its own
}

func newGate(stripes int) *gate { return &gate{make([]stripe, stripes)} }

func (g *gate) enter(i uint32) { g.stripes[int(i)%len(g.stripes)].n.Add(1) }
func (g *gate) leave(i uint32) { g.stripes[int(i)%len(g.stripes)].n.Add(-1) }

// idle reports whether every stripe was seen at 0. A write leaves the stripe that
// it entered, so that a stripe seen at 0 after the rules closed the scope gets no
// write that stays.
func (g *gate) idle() bool {
	for i := range g.stripes {
		if g.stripes[i].n.Load() != 0 {
			return false
		}
	}
	return true
}

// busy are the gates in which writes count.
func busy(gates []*gate) []*gate {
	var out []*gate
	for _, g := range gates {
		if !g.idle() {
			out = append(out, g)
		}
	}
	return out
}
