package sim

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// node is a data node: a process around agent.Step, with its disk.
type node struct {
	*proc
	id      scope.NodeID
	disk    *disk
	st      agent.State
	adm     *agent.Admission
	staging map[string]*staging
	sending map[string]int // move → number of the newest stream to it
	waits   []agent.AwaitDrain
	armed   time.Duration // real time of the tick that is set
	ops     map[int]*op   // admitted and not yet left
	stopped bool          // shut down on purpose
	off     bool          // an admin vouched for it: it stays off until the world heals
	streams int
	refusal string        // of the last write that was not admitted
	late    *fsm.Envelope // a word that is on its way for long
	// A write of a key under stuckOn that is admitted waits in the store for so long.
	stuckFor time.Duration
	stuckOn  scope.Prefix
}

// boot starts the node's process.
func (n *node) boot() {
	n.alive, n.stopped = true, false
	n.life++
	n.staging, n.sending, n.waits, n.ops = map[string]*staging{}, map[string]int{}, nil, map[int]*op{}
	cfg := agent.Config{Node: n.id, Identity: n.disk.identity, Times: n.w.times, Grace: 3 * time.Second, RefuseUnknown: n.w.seed%2 == 0}
	n.st = agent.New(cfg, n.clock(), n.disk.held())
	n.adm = agent.NewAdmission(n.st)
	n.armed = 0
	n.after(n.rng.between(0, 50*time.Millisecond), func() { n.step(agent.Tick{}) })
}

// crash ends the process at once.
func (n *node) crash() {
	n.die()
	n.disk.store.crash(n.rng)
	for _, o := range sortedOps(n.ops) {
		n.w.check.died(o)
	}
	n.ops = nil
}

func (n *node) step(e agent.Event) {
	was := n.st
	var effects []agent.Effect
	n.st, effects = agent.Step(n.st, n.clock(), e)
	if n.st.View().Index() != was.View().Index() || n.st.View().Incarnation() != was.View().Incarnation() {
		n.w.check.viewed(n, was.View(), n.st.View())
	}
	for _, f := range effects {
		n.effect(f)
	}
	n.arm()
	if n.st.Stopped() && !n.stopped {
		n.w.count("node closed its session")
		n.stopped = true
		n.crash()
	}
}

// arm sets the tick that the state asks for.
func (n *node) arm() {
	due := n.st.Due()
	if due == 0 {
		return
	}
	at := max(n.real(due), n.w.now+time.Millisecond)
	if n.armed > n.w.now && n.armed <= at {
		return
	}
	n.armed = at
	n.after(at-n.w.now, func() {
		if n.armed == at {
			n.armed = 0
			n.step(agent.Tick{})
		}
	})
}

func (n *node) watched(stream uint64, item api.WatchItem) {
	n.step(agent.Watched{Stream: stream, Item: item})
}

func (n *node) watchEnded(stream uint64, code api.Code) {
	n.step(agent.WatchEnded{Stream: stream, Code: code})
}

// server is one that the node asks: any.
func (n *node) server() *server { return n.w.servers[n.rng.below(len(n.w.servers))] }

// soon has the node report what became of an effect.
func (n *node) soon(lo, hi time.Duration, e func() agent.Event) {
	n.after(n.rng.between(lo, hi), func() { n.step(e()) })
}

const (
	fast = 500 * time.Microsecond
	slow = 20 * time.Millisecond
)

func (n *node) effect(f agent.Effect) {
	switch f := f.(type) {
	case agent.Publish:
		n.adm.Publish(f.Rules)
	case agent.Watch:
		n.watch(f)
	case agent.OpenSession:
		n.open(f)
	case agent.Renew:
		n.renew(f)
	case agent.AwaitDrain:
		n.waits = append(n.waits, f)
		n.after(n.rng.between(fast, slow), n.lookDrained)
	case agent.Copy:
		n.w.count("pre-copy")
		n.copySlice(f)
	case agent.Ship:
		n.ship(f)
	case agent.StopShipping:
		delete(n.sending, f.Move)
	case agent.Seal:
		d := n.rng.between(fast, slow)
		if n.w.now < n.w.seals {
			n.w.count("fault: sealing takes long")
			d = n.rng.between(11*time.Second, 18*time.Second)
		}
		n.after(d, func() { n.seal(f) })
	case agent.Promote:
		n.after(n.rng.between(fast, 2*slow), func() { n.promote(f) })
	case agent.Discard:
		n.after(n.rng.between(fast, slow), func() { n.discard(f) })
	case agent.Delete:
		n.after(n.rng.between(fast, slow), func() { n.deleteBatch(f) })
	case agent.Tell:
		s := n.server()
		n.w.send(n.proc, s.proc, func() { s.report(f.Report) })
	case agent.Say:
		n.say(f.Word)
	}
}

func (n *node) watch(f agent.Watch) {
	s, life := n.server(), n.life
	if n.w.cut(n.proc, s.proc) || !s.alive {
		n.soon(fast, time.Second, func() agent.Event { return agent.WatchEnded{Stream: f.Stream} })
		return
	}
	n.w.count("watch")
	begun := false
	n.w.deliver(n.proc, s.proc, n.rng.between(fast, 5*time.Millisecond), func() {
		begun = true
		if n.life == life {
			s.watch(n, f.Stream, f.From)
		}
	})
	n.after(2*time.Second, func() {
		if !begun { // the server did not answer
			n.watchEnded(f.Stream, "")
		}
	})
}

// open opens a session. Token and session are on disk before the first try; every
// token that may be the session's is tried.
func (n *node) open(f agent.OpenSession) {
	session, token := n.w.draw("ses"), n.w.draw("tok")
	tries := append([]string{}, n.disk.tokens...)
	if len(tries) == 0 {
		tries = []string{""}
	}
	n.disk.tokens = append(n.disk.tokens, token)
	n.tryOpen(f, session, token, tries)
}

func (n *node) tryOpen(f agent.OpenSession, session, token string, tries []string) {
	last := tries[len(tries)-1]
	c := &fsm.OpenSession{Node: string(n.id), Identity: n.disk.identity, Session: session, TokenHash: tokenHash(token),
		Incarnation: f.Incarnation.Number, IncarnationTag: f.Incarnation.Tag, View: f.View}
	if last != "" {
		c.PreviousTokenHash = tokenHash(last)
	}
	n.w.certain(n.proc, c, func(r *fsm.Result) {
		code := api.Code(r.GetCode())
		switch {
		case code == "":
			n.w.count("session opened")
			n.disk.tokens = []string{token}
			n.w.check.opened(n, session)
			n.sayLate()
			n.step(agent.Opened{Session: session, Index: r.GetIndex(), Incarnation: f.Incarnation})
		case code == api.SessionBusy && len(tries) > 1:
			n.tryOpen(f, session, token, tries[:len(tries)-1])
		default:
			n.w.count("open refused " + string(code))
			n.disk.tokens = slices.DeleteFunc(n.disk.tokens, func(t string) bool { return t == token })
			n.step(agent.OpenFailed{Code: code})
		}
	})
}

func tokenHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// certain has a command decided: the same request again until its outcome is
// known.
func (w *world) certain(from *proc, c fsm.Command, then func(*fsm.Result)) {
	e := fsm.Envelope{RequestID: w.draw("req"), Actor: from.name, Origin: fsm.OriginOf(from.who, from.name, ""), Command: c}
	var try func()
	try = func() {
		s := w.servers[from.rng.below(len(w.servers))]
		w.call(from, s.proc, 3*time.Second, func(reply func(any)) { s.command(e, reply) }, func(v any, ok bool) {
			a, _ := v.(answer)
			if ok && a.result != nil {
				then(a.result)
				return
			}
			w.count("command tried again")
			from.after(from.rng.between(50*time.Millisecond, 400*time.Millisecond), try)
		})
	}
	try()
}

func (n *node) renew(f agent.Renew) {
	sent := n.clock()
	s := n.server()
	n.trapAnswer()
	asked := f.Renewal
	asked.As = n.who.ID
	n.w.call(n.proc, s.proc, 9*time.Second, func(reply func(any)) { s.renew(asked, reply) }, func(v any, ok bool) {
		r, _ := v.(renewal)
		switch {
		case !ok:
			n.step(agent.RenewFailed{Session: f.Renewal.Session, Code: api.Timeout})
		case r.code != "":
			n.step(agent.RenewFailed{Session: f.Renewal.Session, Code: r.code})
		default:
			n.step(agent.Renewed{Session: f.Renewal.Session, SentAt: sent, Lease: n.w.times.Lease, Index: r.index})
		}
	})
}

// say proposes a word once; the state repeats it until the view shows its effect.
func (n *node) say(w agent.Word) {
	manifest := &fsm.Manifest{Keys: w.Manifest.Keys, Bytes: w.Manifest.Bytes, Digest: w.Manifest.Digest}
	var c fsm.Command
	switch w.Kind {
	case agent.SayShipped:
		c = &fsm.Shipped{Move: w.Move, Manifest: manifest, Session: w.Session}
	case agent.SayReady:
		c = &fsm.Ready{Move: w.Move, Manifest: manifest, Session: w.Session}
	case agent.SayAbort:
		c = &fsm.Abort{Move: w.Move, Reason: w.Reason, Session: w.Session}
	case agent.SayCleaned:
		c = &fsm.Cleaned{Node: string(n.id), Prefix: w.Prefix.Bytes(), Epoch: w.Epoch, Session: w.Session}
	case agent.SayClose:
		c = &fsm.CloseSession{Session: w.Session}
	}
	e := fsm.Envelope{RequestID: n.w.draw("req"), Actor: n.name, Origin: fsm.OriginOf(n.who, n.name, ""), Command: c}
	s := n.server()
	if w.Kind == agent.SayReady && n.trapWord(e) {
		return
	}
	n.w.call(n.proc, s.proc, 3*time.Second, func(reply func(any)) { s.command(e, reply) }, func(v any, ok bool) {
		a, _ := v.(answer)
		if !ok || a.result == nil {
			return
		}
		n.w.count("word " + kindOf(c) + " " + outcomeOf(a.code))
		if w.Kind == agent.SayClose && (a.code == "" || a.code == api.SessionExpired) {
			n.step(agent.Closed{Session: w.Session})
		}
	})
}

// lookDrained answers the waits for a drain that is complete.
func (n *node) lookDrained() {
	waits := n.waits
	n.waits = nil
	var done []agent.AwaitDrain
	for _, x := range waits {
		if x.Move == "" && n.adm.Idle() || x.Move != "" && n.adm.Drained(x.Prefix) {
			done = append(done, x)
		} else {
			n.waits = append(n.waits, x)
		}
	}
	for _, x := range done {
		n.step(agent.Drained{Move: x.Move})
	}
}

// seal makes the staged slice durable together with its mark.
func (n *node) seal(f agent.Seal) {
	area := n.staging[f.Mark.Move]
	if area == nil {
		return // it was discarded; the state has heard of that
	}
	n.disk.sealed[f.Mark.Move], n.disk.marks[f.Mark.Move] = area.data, f.Mark
	delete(n.staging, f.Mark.Move)
	n.w.count("slice sealed")
	n.step(agent.Sealed(f))
}

func (n *node) promote(f agent.Promote) {
	slice, ok := n.disk.sealed[f.Move]
	if !ok {
		return
	}
	n.w.check.promoted(n, f.Slice, slice)
	n.disk.store.replace(f.Prefix, slice)
	m := n.disk.marks[f.Move]
	m.Promoted = true
	n.disk.marks[f.Move] = m
	delete(n.disk.sealed, f.Move)
	n.w.count("slice promoted")
	n.trapStream(f.Move)
	n.w.note("%s promotes %s of %q: %v", n.name, f.Move, f.Prefix, slice)
	n.step(agent.Promoted{Move: f.Move})
}

func (n *node) discard(f agent.Discard) {
	delete(n.staging, f.Move)
	delete(n.disk.sealed, f.Move)
	if m, ok := n.disk.marks[f.Move]; ok && !m.Promoted {
		delete(n.disk.marks, f.Move)
	}
	n.w.count("slice discarded")
	n.step(agent.Discarded(f))
}

// deleteBatch deletes a few records of an old copy, and goes on.
func (n *node) deleteBatch(f agent.Delete) {
	if !n.adm.BeginDelete(f.Prefix, f.Epoch) {
		n.w.count("delete stopped")
		n.step(agent.Deleted{Prefix: f.Prefix, Epoch: f.Epoch})
		return
	}
	batch, pause := 2, n.rng.between(fast, slow)
	if n.w.now < n.w.deletes {
		n.w.count("fault: deleting takes long")
		batch, pause = 1, n.rng.between(3*time.Second, 8*time.Second)
	}
	n.after(n.rng.between(fast, 2*slow), func() {
		keys := n.disk.store.data.under(f.Prefix)
		for _, k := range keys[:min(batch, len(keys))] {
			n.disk.store.put(k, 0)
		}
		n.disk.store.sync()
		n.adm.EndDelete()
		n.lookDrained()
		n.w.count("batch deleted")
		if len(keys) <= batch {
			n.step(agent.Deleted{Prefix: f.Prefix, Epoch: f.Epoch, Done: true})
			return
		}
		n.after(pause, func() { n.deleteBatch(f) })
	})
}

// outcomeOf names what a command came to.
func outcomeOf(code api.Code) string {
	if code == "" {
		return "applied"
	}
	return string(code)
}

// kindOf names a command.
func kindOf(c fsm.Command) string {
	return string(c.ProtoReflect().Descriptor().Name())
}
