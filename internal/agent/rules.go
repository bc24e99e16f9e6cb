package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Rules is everything that decides about a write at one time, as one immutable
// value. [Step] makes them, [Admission.Publish] puts them in force.
type Rules struct {
	node    scope.NodeID
	view    View
	marks   marks
	sealing []string // moves whose slices are being sealed, sorted
	session string   // that this process may acknowledge under; "" is none
	closing bool     // nothing more is admitted: the node shuts down
	// until is when the lease ends, on the node's clock; 0 is none.
	until  time.Duration
	places scope.Index[*place] // of the scopes that the node owns
	gates  scope.Index[*gate]  // of those, and of others in which its writes may still count
	// unknown counts writes of keys that no scope holds; older are those of times
	// when other prefixes were declared.
	unknown       *gate
	older         []*gate
	refuseUnknown bool
	// retired is the index of the view in which a scope went last. A key that no
	// scope holds may have been another node's, if it was admitted before.
	retired uint64
	// arriving are the prefixes of which a slice is on its way into the store: reads
	// would see a part of it, or what was there before.
	arriving scope.Index[struct{}]
}

// retryMS is what a client waits that met a closed scope: a move of a small one
// takes about as long.
const retryMS = 20

// place is a scope that the node owns.
type place struct {
	scope      *scope.Scope
	token      Token
	gate       *gate
	needsLease bool
	// closed: nobody may write here, although the node owns it. A move or the
	// cluster holds it closed, or its slice is not in the store yet.
	closed bool
}

// View is what the rules were made from.
func (r *Rules) View() View { return r.view }

// judge says whether a write of key may be admitted now, and where it counts.
// The place is nil if no scope holds the key.
func (r *Rules) judge(key []byte, clock Clock) (*place, *gate, *api.Error) {
	p, owned := r.places.Match(key)
	if !owned {
		return r.judgeForeign(key)
	}
	switch {
	case p.closed:
		return nil, nil, r.quiesced(p)
	case r.session == "" || r.closing:
		return nil, nil, r.noSession()
	case p.needsLease && clock() >= r.until:
		return nil, nil, &api.Error{Code: api.LeaseLost, Owner: string(r.node), Epoch: p.scope.Epoch, Detail: fmt.Sprintf(
			"scope %q needs a lease and that of node %q has ended; it takes no writes until the lease is renewed, or the scope has gone to %q", p.scope.Prefix, r.node, p.scope.Fallback)}
	}
	return p, p.gate, nil
}

// judgeForeign is about a key of no scope, or of another node's.
func (r *Rules) judgeForeign(key []byte) (*place, *gate, *api.Error) {
	s, declared := r.view.scopes.Lookup(key)
	switch {
	case declared && r.view.Closed(s):
		return nil, nil, r.quiesced(&place{scope: s})
	case declared:
		addr := r.view.Addr(s.Owner)
		return nil, nil, &api.Error{Code: api.Misdirected, Owner: string(s.Owner), Addr: addr, Epoch: s.Epoch, Detail: "writer is " + addr}
	case r.session == "" || r.closing:
		return nil, nil, r.noSession()
	case r.refuseUnknown:
		return nil, nil, &api.Error{Code: api.Misdirected, Detail: fmt.Sprintf("no scope holds the key, and node %q takes only keys of declared scopes; declare one", r.node)}
	}
	return nil, r.unknown, nil
}

func (r *Rules) quiesced(p *place) *api.Error {
	to := p.scope.Quiesced
	if to == "" {
		to = p.scope.Owner
	}
	addr := r.view.Addr(to)
	return &api.Error{Code: api.Quiesced, Owner: string(to), Addr: addr, Epoch: p.scope.Epoch, RetryMS: retryMS, Detail: "migrating to " + addr}
}

func (r *Rules) noSession() *api.Error {
	if r.closing {
		return &api.Error{Code: api.LeaseLost, Owner: string(r.node), Detail: fmt.Sprintf("node %q is shutting down and takes no more writes", r.node)}
	}
	return &api.Error{Code: api.LeaseLost, Owner: string(r.node), Detail: fmt.Sprintf(
		"node %q has no session in which it may admit writes; it takes none until it has opened one and its view has reached that", r.node)}
}

// Serves says why a read of key would see half of a slice, or nil. Until the flip
// the source serves reads, and is named; later this node does, once the slice is in
// force.
func (r *Rules) Serves(key []byte) error {
	if r.arriving.Len() == 0 {
		return nil
	}
	if _, arrives := r.arriving.Match(key); !arrives {
		return nil
	}
	s, declared := r.view.scopes.Lookup(key)
	switch {
	case !declared:
		return nil
	case s.Owner == r.node:
		return r.quiesced(&place{scope: s})
	}
	addr := r.view.Addr(s.Owner)
	return &api.Error{Code: api.Misdirected, Owner: string(s.Owner), Addr: addr, Epoch: s.Epoch, Detail: "writer is " + addr}
}

// crossing is CROSS_SCOPE if the keys are not all in one scope, or in none.
func (r *Rules) crossing(keys [][]byte) error {
	first, _ := r.view.scopes.Lookup(keys[0])
	for _, key := range keys[1:] {
		if s, _ := r.view.scopes.Lookup(key); s != first {
			return r.cross(keys[0], key)
		}
	}
	return nil
}

func (r *Rules) cross(a, b []byte) *api.Error {
	return &api.Error{Code: api.CrossScope, Detail: fmt.Sprintf("key %q is in %s and key %q in %s; split the write",
		scope.BytesText(string(a)), r.whose(a), scope.BytesText(string(b)), r.whose(b))}
}

func (r *Rules) whose(key []byte) string {
	s, declared := r.view.scopes.Lookup(key)
	if !declared {
		return "no scope"
	}
	return fmt.Sprintf("scope %q", s.Prefix.Text())
}

// token is the fencing token of the key's scope as the rules have it.
func (r *Rules) token(key []byte) Token {
	t := Token{Incarnation: r.view.incarnation}
	if s, ok := r.view.scopes.Lookup(key); ok {
		t.Epoch = s.Epoch
	}
	return t
}

// still says whether what was admitted under t may be acknowledged now.
func (r *Rules) still(t *Ticket, key []byte, clock Clock) bool {
	if r.session == "" || r.session != t.rules.session || r.token(key) != t.Token() {
		return false
	}
	if t.place == nil && t.rules.view.index < r.retired {
		return false // "no scope" is no tenure: it comes back after one
	}
	p, owned := r.places.Match(key)
	return !owned || !p.needsLease || clock() < r.until
}

// unsure is the error of a write that executed and may not be acknowledged; kind is
// key or scope, and text which.
func (r *Rules) unsure(t *Ticket, kind, text string) error {
	return &api.Error{Code: api.OutcomeUnknown, Epoch: t.Token().Epoch, Detail: fmt.Sprintf(
		"the write executed, but meanwhile node %q lost its lease, its session or the tenure of %s %q; read it from the owner before writing again", r.node, kind, text)}
}

// deletable says whether a copy may be deleted now: its cleanup is pending, and
// the node neither owns nor receives any key of it.
func (r *Rules) deletable(p scope.Prefix, epoch uint64) bool {
	c, pending := r.view.Cleanup(r.node, p)
	if r.session == "" || r.closing || !pending || c.Epoch != epoch {
		return false
	}
	for range r.places.Overlapping(p) {
		return false
	}
	if _, waits := r.marks.awaited(p); waits {
		return false // a slice may be on its way into the store
	}
	for m := range r.view.Moves() {
		if m.To == r.node && m.Prefix.Overlaps(p) {
			return false
		}
	}
	return true
}

// Stages says whether the node takes records of this move now: its own view shows
// that the move runs, with it as the target, and nothing was sealed for that id.
// The view counts only with a session that it shows: one from before that may show
// a move as running that has ended long ago. Who takes a stream asks for every
// batch.
func (r *Rules) Stages(move string) error {
	m, running := r.view.Move(move)
	mark, marked := r.marks.of(move)
	switch {
	case marked && mark.Promoted:
		return fmt.Errorf("move %s: its slice is in the store of node %q already", move, r.node)
	case marked || slices.Contains(r.sealing, move):
		return fmt.Errorf("move %s: its slice is sealed on node %q already and takes no more records", move, r.node)
	case r.session == "" || r.closing:
		return fmt.Errorf("move %s: node %q takes no records without a session that its view shows", move, r.node)
	case !running || m.To != r.node || m.Mode != migration.Agent:
		return fmt.Errorf("move %s: node %q knows of no such move to it that is running (its view is at index %d)", move, r.node, r.view.index)
	}
	return nil
}
