package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/snapshot"
)

// applied looks at what an entry did.
func (c *checker) applied(before, after fsm.State, e *entry, results []*fsm.Result, events []fsm.Event) {
	index := after.Index()
	for i, r := range results {
		env := e.commands[i]
		c.once(env, r, index)
		outcome := outcomeOf(api.Code(r.GetCode()))
		c.w.count(kindOf(env.Command) + " " + outcome)
		if c.w.tracing { // or the command would be printed for nothing
			c.w.line(fmt.Sprintf("%d %s by %s: %s %s", index, kindOf(env.Command), env.Actor, outcome, brief(env.Command)))
		}
		c.w.mix(kindOf(env.Command) + outcome)
		if x, ok := env.Command.(*fsm.Expire); ok && outcome == "applied" && r.GetIndex() == index {
			c.expired(x.GetSession())
		}
		if x, ok := env.Command.(*fsm.OpenSession); ok && outcome == "applied" && r.GetIndex() == index {
			c.sessionOpened(after, x)
		}
	}
	for _, ev := range events {
		switch {
		case ev.Scope != nil:
			c.scopeChanged(before, after, ev)
		case ev.Move != nil && !ev.Move.Running():
			c.moveEnded(*ev.Move)
		}
	}
}

// brief is a command for a reader: the hashes of tokens say nothing.
func brief(c fsm.Command) string {
	text := fmt.Sprint(c)
	if x, ok := c.(*fsm.OpenSession); ok {
		return fmt.Sprintf("identity:%s session:%s incarnation:%d view:%d", x.GetIdentity(), x.GetSession(), x.GetIncarnation(), x.GetView())
	}
	return text
}

// once: I7, a request takes effect at most once.
func (c *checker) once(env fsm.Envelope, r *fsm.Result, index uint64) {
	if r.GetIndex() != index {
		c.w.count("request answered from the ring")
		return
	}
	if first, twice := c.w.log.applied[env.RequestID]; twice {
		c.w.fail("I7", "request %s (%s) took effect at index %d and again at %d", env.RequestID, kindOf(env.Command), first, index)
	}
	c.w.log.applied[env.RequestID] = index
}

// expired: I4, the lease of the holder ended before.
func (c *checker) expired(session string) {
	c.w.count("session expired")
	c.ended[session] = true
	n, ok := c.sessions[session]
	if !ok || !n.alive || n.st.Session() != session {
		return
	}
	if until := n.st.LeaseUntil(); until > n.clock() {
		c.w.fail("I4", "session %s of %s expires, and its lease lasts %s more on its clock", session, n.name, until-n.clock())
	}
}

// sessionOpened: I5, the view that an Open acknowledges is of this history of the
// cluster; an index of another one says nothing.
func (c *checker) sessionOpened(after fsm.State, x *fsm.OpenSession) {
	cl := after.Cluster()
	for _, n := range c.w.nodes {
		v := n.st.View()
		if n.alive && n.disk.identity == x.GetIdentity() && v.Index() > 0 && v.Incarnation() != (agent.Incarnation{Number: cl.Incarnation, Tag: cl.Tag}) {
			c.w.fail("I5", "%s opens session %s in incarnation %d %s with a view of %v", n.name, x.GetSession(), cl.Incarnation, cl.Tag, v.Incarnation())
		}
	}
}

// proposedToExpire: I4 from the other side, a session gets its whole deadline from
// each leader, and again from one that was stopped: it could not be renewed then.
func (c *checker) proposedToExpire(s *server, session string) {
	if c.proposed[session] == s.term {
		return // it was proposed before, and lives still
	}
	c.proposed[session] = s.term
	least := c.w.times.Deadline * 100 / (100 + api.ClockSkew)
	if since := c.w.now - s.countsFrom; since < least-time.Millisecond {
		c.w.fail("I4", "%s proposes that session %s expires %s after it began to count, before a whole deadline", s.name, session, since)
	}
}

// scopeChanged: I1, epochs rise; and what a change of owner may lose by right.
func (c *checker) scopeChanged(before, after fsm.State, ev fsm.Event) {
	s := ev.Scope
	if ev.Deleted {
		return
	}
	token := tokenOf(after, s)
	last, known := c.epochs[s.Prefix]
	old, existed := before.Scopes().Get(s.Prefix)
	if known && (c.older(token, last) || token == last && existed && old.Owner != s.Owner) {
		c.w.fail("I1", "scope %q is of %s at %v after it was at %v", s.Prefix, s.Owner, token, last)
	}
	c.epochs[s.Prefix] = token
	switch ev.Cause {
	case "takeover":
		c.w.count("takeover")
		c.forget(s.Prefix, "takeover")
	case "force":
		c.w.count("force")
		c.forget(s.Prefix, "force")
	case "declare":
		// Whose data it is then is the operator's affair.
		c.forget(s.Prefix, "declare")
	}
}

// moveEnded: I3, done means shipped and ready with equal manifests.
func (c *checker) moveEnded(m migration.Move) {
	if m.Phase == migration.Aborted {
		c.w.count("move aborted: " + m.Cause)
		return
	}
	c.w.count("move done: " + m.Mode.String())
	c.done[m.ID], c.moves[m.ID] = true, m
	if m.Mode == migration.Agent && (m.Shipped == nil || m.Ready == nil || *m.Shipped != *m.Ready) {
		c.w.fail("I3", "move %s is done with the manifests %v and %v", m.ID, m.Shipped, m.Ready)
	}
}

// restored: nothing of what the backup did not hold is promised.
func (c *checker) restored(after fsm.State, events []fsm.Event) {
	for _, ev := range events {
		if ev.Move != nil {
			c.moveEnded(*ev.Move)
		}
	}
	cl := after.Cluster()
	in := agent.Incarnation{Number: cl.Incarnation, Tag: cl.Tag}
	if _, used := c.eras[in]; !used {
		c.eras[in] = len(c.eras)
	}
	c.w.count("restore")
	c.epochs, c.done = map[scope.Prefix]agent.Token{}, map[string]bool{}
	c.w.log.applied = map[string]uint64{} // what was applied since the backup is undone, and may be again
	c.forget("", "restore")
}

// differs says in what a view is not the state of its index, "" in nothing.
func (c *checker) differs(v agent.View) string {
	st := c.w.log.stateAt(v.Index())
	cl := st.Cluster()
	switch {
	case c.eras[v.Incarnation()] < c.eras[agent.Incarnation{Number: cl.Incarnation, Tag: cl.Tag}]:
		return "" // of a history whose indexes a fresh cluster uses again
	case v.Incarnation() != agent.Incarnation{Number: cl.Incarnation, Tag: cl.Tag} || v.Holds() != cl.Hold:
		return fmt.Sprintf("is of incarnation %v, hold %v; the state is of %d %s, hold %v", v.Incarnation(), v.Holds(), cl.Incarnation, cl.Tag, cl.Hold)
	case v.Scopes().Len() != st.Scopes().Len():
		return fmt.Sprintf("has %d scopes, the state %d", v.Scopes().Len(), st.Scopes().Len())
	}
	for s := range st.Scopes().Scopes() {
		if got, ok := v.Scopes().Get(s.Prefix); !ok || *got != *s {
			return fmt.Sprintf("scope %q: %+v, in the state %+v", s.Prefix, got, *s)
		}
	}
	for n := range st.Nodes() {
		if p, ok := v.Peer(n.ID); !ok || p.Session != n.Session.ID || p.Addr != n.Addr || p.Opened != n.Session.Opened {
			return fmt.Sprintf("node %s: %+v, in the state %+v", n.ID, p, n)
		}
		for owed := range v.Cleanups(n.ID) {
			if !pending(st, owed) {
				return fmt.Sprintf("%+v, not in the state", owed)
			}
		}
	}
	running := 0
	for m := range st.Moves().Running() {
		running++
		if got, ok := v.Move(m.ID); !ok || got.Phase != m.Phase || got.To != m.To {
			return fmt.Sprintf("move %s: %+v, in the state %+v", m.ID, got, m)
		}
	}
	for range v.Moves() {
		running--
	}
	if running != 0 {
		return fmt.Sprintf("%d running moves too many", -running)
	}
	for owed := range st.CleanupsOver("") {
		if got, ok := v.Cleanup(owed.Node, owed.Prefix); !ok || got.Epoch != owed.Epoch {
			return fmt.Sprintf("lacks %+v", owed)
		}
	}
	return ""
}

func pending(st fsm.State, c agent.Cleanup) bool {
	for owed := range st.CleanupsOver(c.Prefix) {
		if owed.Node == c.Node && owed.Prefix == c.Prefix && owed.Epoch == c.Epoch {
			return true
		}
	}
	return false
}

// stateAt is the state that a server at this index has.
func (g *log) stateAt(index uint64) fsm.State {
	for i := index; i > 0; i-- {
		if v, ok := g.states[i]; ok {
			return v.state
		}
	}
	return fsm.State{}
}

// replayed: I6, the state from a snapshot and the entries after it is that which
// the entries built from the start.
func (c *checker) replayed(from, to uint64) {
	st, err := reread(c.w.log.stateAt(from))
	if err != nil {
		c.w.fail("I6", "the snapshot of index %d: %v", from, err)
		return
	}
	for i := from + 1; i <= to && err == nil; i++ {
		switch v, ok := c.w.log.states[i]; {
		case !ok:
		case v.data == nil: // a restore
			st = v.state
		default:
			st, _, _, err = st.ApplyEntry(i, v.term, v.data)
		}
	}
	want := c.w.log.stateAt(to)
	if err != nil || st.Hash() != want.Hash() {
		c.w.fail("I6", "index %d has the hash %s from the snapshot of %d, and %s (%v)", to, st.Hash(), from, want.Hash(), err)
	}
}

// reread writes a state as a snapshot and reads it back.
func reread(st fsm.State) (fsm.State, error) {
	var buf bytes.Buffer
	if err := st.Encode(&buf); err != nil {
		return fsm.State{}, err
	}
	r, err := snapshot.NewReader(&buf)
	if err != nil {
		return fsm.State{}, err
	}
	loader := fsm.NewLoader()
	for {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			return loader.State()
		}
		if err != nil {
			return fsm.State{}, err
		}
		if err := loader.Add(record); err != nil {
			return fsm.State{}, err
		}
	}
}
