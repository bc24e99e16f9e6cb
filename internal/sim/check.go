package sim

import (
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// checker holds what happened against the invariants.
type checker struct {
	w        *world
	keys     map[string]*history
	owners   map[agent.Token]scope.NodeID // who admitted under a token
	sessions map[string]*node             // who opened a session
	eras     map[agent.Incarnation]int    // in the order of restores
	epochs   map[scope.Prefix]agent.Token // of the newest tenure of a prefix
	execs    int
	views    int
	served   map[agent.Token]bool      // the first write was admitted
	done     map[string]bool           // moves that were done in this incarnation
	moves    map[string]migration.Move // moves that were ever done
	proposed map[string]uint64         // sessions → term in which their expiry was proposed
	ended    map[string]bool           // sessions that have expired
}

// history is what clients were told of one key.
type history struct {
	// truth is the last write that was acknowledged, by the order of execution;
	// nil if nothing is promised.
	truth *op
	// since is how many executions there were when a promise ended last.
	since int
	// loose are writes of which nobody was told the outcome, or not yet.
	loose map[int]*op
	spans []*span // one for each token, in the order of first use
}

// span is from the first admission to the last acknowledgement of acknowledged
// writes under one token.
type span struct {
	token    agent.Token
	from, to time.Duration
}

func newChecker(w *world) *checker {
	return &checker{w: w, keys: map[string]*history{}, owners: map[agent.Token]scope.NodeID{}, sessions: map[string]*node{},
		eras: map[agent.Incarnation]int{}, epochs: map[scope.Prefix]agent.Token{}, served: map[agent.Token]bool{}, done: map[string]bool{}, moves: map[string]migration.Move{}, proposed: map[string]uint64{}, ended: map[string]bool{}}
}

func (c *checker) of(key string) *history {
	h, ok := c.keys[key]
	if !ok {
		h = &history{loose: map[int]*op{}}
		c.keys[key] = h
	}
	return h
}

// older reports whether the tenure of a came before that of b.
func (c *checker) older(a, b agent.Token) bool {
	ea, eb := c.eras[a.Incarnation], c.eras[b.Incarnation]
	return ea < eb || ea == eb && a.Epoch < b.Epoch
}

// admitted: I1, no two owners share a token; I3, the slice that is first served
// after a flip is the one that was shipped.
func (c *checker) admitted(o *op) {
	c.of(o.key).loose[o.id] = o
	if o.token.Epoch == 0 {
		return
	}
	if session := o.n.st.Session(); o.ticket.Leased() && c.ended[session] {
		c.w.fail("I4", "write %d of %q is admitted by %s on its lease, and session %s has expired", o.id, o.key, o.n.name, session)
	}
	if who, ok := c.owners[o.token]; ok && who != o.n.id {
		c.w.fail("I1", "write %d of %q is admitted by %s under token %v, as earlier ones were by %s", o.id, o.key, o.n.name, o.token, who)
	}
	c.owners[o.token] = o.n.id
	if c.served[o.token] {
		return
	}
	c.served[o.token] = true
	st := c.w.log.last
	s, ok := st.Scopes().Lookup([]byte(o.key))
	if !ok || tokenOf(st, s) != o.token {
		return
	}
	m, ok := c.broughtBy(st, s)
	if !ok {
		return
	}
	c.w.count("slice first served after a flip")
	if got := o.n.disk.store.data.slice(s.Prefix).manifest(); got != *m.Shipped {
		c.w.fail("I3", "%s first serves %q after move %s with %+v, shipped was %+v", o.n.name, s.Prefix, m.ID, got, *m.Shipped)
	}
}

// broughtBy is the move by agents that began the scope's present tenure.
func (c *checker) broughtBy(st fsm.State, s *scope.Scope) (migration.Move, bool) {
	m, ok := st.Moves().LookupMigrated(s.Prefix)
	return m, ok && m.NewEpoch == s.Epoch && m.Mode == migration.Agent && c.done[m.ID]
}

func tokenOf(st fsm.State, s *scope.Scope) agent.Token {
	cl := st.Cluster()
	return agent.Token{Incarnation: agent.Incarnation{Number: cl.Incarnation, Tag: cl.Tag}, Epoch: s.Epoch}
}

// executed: no write of an earlier tenure may touch a slice that was promoted in
// this one, which is part of I3.
func (c *checker) executed(o *op) {
	c.execs++
	o.exec = c.execs
	st := c.w.log.last
	s, ok := st.Scopes().Lookup([]byte(o.key))
	if !ok || s.Owner != o.n.id || o.token.Epoch == 0 || !c.older(o.token, tokenOf(st, s)) {
		return
	}
	if m, ok := c.broughtBy(st, s); ok && o.n.disk.marks[m.ID].Promoted {
		c.w.fail("I3", "write %d of %q, admitted by %s under %v, executes on the slice that move %s brought", o.id, o.key, o.n.name, o.token, m.ID)
	}
}

// acked: I1, no key is accepted under two tokens in overlapping spans.
func (c *checker) acked(o *op) {
	h := c.of(o.key)
	c.w.note("%s acknowledges write %d of %q = %d under %d/%d", o.n.name, o.id, o.key, o.val, o.token.Number, o.token.Epoch)
	if o.token.Epoch > 0 {
		x := &span{token: o.token, from: o.start}
		for _, other := range h.spans {
			switch {
			case other.token == o.token:
				x = other
			case c.older(o.token, other.token) || c.older(other.token, o.token) && other.to > o.start:
				c.w.fail("I1", "%s acknowledges write %d of %q under %v, admitted at %s, and under %v writes were accepted from %s to %s",
					o.n.name, o.id, o.key, o.token, o.start, other.token, other.from, other.to)
				return
			}
		}
		if !slices.Contains(h.spans, x) {
			h.spans = append(h.spans, x)
		}
		x.from, x.to = min(x.from, o.start), c.w.now
	}
	if c.promised(o) { // else it may show up, or not, as one of unknown outcome
		delete(h.loose, o.id)
	}
	if (h.truth == nil || o.exec > h.truth.exec) && o.exec > h.since && c.promised(o) {
		h.truth = o
	}
	for id, l := range h.loose { // order-free: each is judged alone
		if h.truth != nil && l.exec > 0 && l.exec < h.truth.exec {
			delete(h.loose, id)
		}
	}
}

// promised reports whether the write must be kept: not one of a key that no scope
// holds, nor one of an incarnation that a restore has ended.
func (c *checker) promised(o *op) bool {
	cl := c.w.log.last.Cluster()
	return o.token.Epoch > 0 && o.token.Incarnation == agent.Incarnation{Number: cl.Incarnation, Tag: cl.Tag}
}

// died: the process ended with the write under way.
func (c *checker) died(o *op) {
	if o.exec == 0 {
		delete(c.of(o.key).loose, o.id)
	}
}

func (c *checker) opened(n *node, session string) { c.sessions[session] = n }

// forget: what was acknowledged under the prefix may be lost by right.
func (c *checker) forget(p scope.Prefix, why string) {
	c.w.count("promise ended by " + why)
	for key, h := range c.keys { // order-free: each is changed alone
		if p.Matches([]byte(key)) {
			h.truth, h.since = nil, c.execs
		}
	}
}

// records are what the owner of a scope has of it: its store, or the sealed slice
// of the move that made it the owner.
func (c *checker) records(st fsm.State, s *scope.Scope) records {
	d := c.w.diskOf(st, s.Owner)
	if m, ok := st.Moves().LookupMigrated(s.Prefix); ok && m.NewEpoch == s.Epoch && m.To == s.Owner {
		if slice, sealed := d.sealed[m.ID]; sealed {
			return slice
		}
	}
	return d.store.data
}

// kept: I2, every acknowledged write is with the owner, or superseded.
func (c *checker) kept() {
	st := c.w.log.last
	for s := range st.Scopes().Scopes() {
		have := c.records(st, s)
		for _, key := range keys {
			h, known := c.keys[key]
			if !known || h.truth == nil || !s.Prefix.Matches([]byte(key)) || have[key] == h.truth.val {
				continue
			}
			explained := false
			for _, l := range h.loose { // order-free: whether there is one
				explained = explained || l.val == have[key]
			}
			if !explained {
				c.w.fail("I2", "the owner %s of %q has %d for %q, acknowledged was %d (write %d by %s)", s.Owner, s.Prefix, have[key], key, h.truth.val, h.truth.id, h.truth.n.name)
			}
		}
	}
}

// promoted: I3, what replaces the store is what was shipped and what was ready.
func (c *checker) promoted(n *node, f agent.Slice, slice records) {
	m, ok := c.moves[f.Move]
	if sealed := n.disk.marks[f.Move].Incarnation; !ok && sealed != n.st.View().Incarnation() {
		c.w.count("slice promoted of a move that a restore has lost")
		return
	}
	if !ok || m.Shipped == nil || m.Ready == nil {
		c.w.fail("I3", "%s promotes move %s, which is not done", n.name, f.Move)
		return
	}
	if got := slice.manifest(); got != *m.Shipped || got != *m.Ready {
		c.w.fail("I3", "%s promotes %+v of move %s; shipped was %+v, ready %+v", n.name, got, f.Move, *m.Shipped, *m.Ready)
	}
}

// viewed: I5, a node's view at an index is the state at that index, and within an
// incarnation it never goes back.
func (c *checker) viewed(n *node, was, is agent.View) {
	if was.Incarnation() == is.Incarnation() && is.Index() < was.Index() {
		c.w.fail("I5", "the view of %s goes from index %d back to %d", n.name, was.Index(), is.Index())
		return
	}
	if c.views++; c.views%8 != 0 || is.Index() == 0 {
		return
	}
	if diff := c.differs(is); diff != "" {
		c.w.fail("I5", "the view of %s at index %d: %s", n.name, is.Index(), diff)
	}
}
