package sim

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// Outcome is what a run came to.
type Outcome struct {
	Seed      uint64
	Violation *Violation // nil if every invariant held
	Events    int
	Hash      uint64         // of all that happened
	Counts    map[string]int // of faults, transitions, refusals
	Plan      []string       // what was done to the world
	Trace     []string       // the last lines of what happened, if asked for
}

var (
	nodeIDs       = []scope.NodeID{"n1", "n2", "n3", "n4"}
	shutdownEvent = agent.Shutdown{}
)

// Run runs the world of a seed.
func Run(seed uint64) Outcome { return runPlan(seed, planFor(seed), false) }

// Trace runs it and keeps the trace.
func Trace(seed uint64) Outcome { return runPlan(seed, planFor(seed), true) }

func runPlan(seed uint64, plan []action, tracing bool) Outcome {
	w := newWorld(seed)
	w.tracing = tracing
	w.found()
	for _, a := range plan {
		w.at(a.at, func() {
			if !w.healing {
				w.perform(a)
			}
		})
	}
	w.run(length + 2*time.Second)
	w.heal()
	for end := w.now + healTime; w.now < end && w.violation == nil; {
		w.run(w.now + 2*time.Second)
		if w.unsettled() == "" {
			break
		}
	}
	w.settled()
	out := Outcome{Seed: seed, Violation: w.violation, Events: w.events, Hash: w.hash, Counts: w.counts, Trace: w.trace}
	for _, a := range plan {
		out.Plan = append(out.Plan, a.String())
	}
	return out
}

func newWorld(seed uint64) *world {
	w := &world{seed: seed, hash: 0xcbf29ce484222325, times: api.DefaultLeases(), cuts: map[[2]string]bool{}, slow: map[string]time.Duration{}, streams: map[string]sent{}, counts: map[string]int{},
		ties: newRng(seed, 3), net: newRng(seed, 4), clients: newRng(seed, 5)}
	w.log, w.check = newLog(w), newChecker(w)
	w.operator = w.newProc("operator", 6)
	w.operator.who = access.Who{Role: access.Admin, ID: "operator"}
	for i := range 3 {
		s := &server{proc: w.newProc(fmt.Sprintf("s%d", i+1), uint64(10+i)), log: w.log}
		w.servers = append(w.servers, s)
	}
	for i, id := range nodeIDs {
		w.newNode(string(id), id, uint64(20+i))
	}
	return w
}

func (w *world) newNode(name string, id scope.NodeID, stream uint64) *node {
	n := &node{proc: w.newProc(name, stream), id: id, disk: newDisk(w.draw("id"))}
	n.who = access.Who{Role: access.Node, ID: string(id)}
	w.nodes = append(w.nodes, n)
	return n
}

// found makes the cluster, with four nodes and four scopes: one that goes to a
// fallback by itself, one that needs no lease, one with a fallback by hand, and one
// with a lease and no fallback.
func (w *world) found() {
	w.log.elect(w.servers[0])
	// There is a token, so that everybody has to be somebody.
	commands := []fsm.Command{&fsm.InitCluster{Id: "c", LogFormat: 2}, &fsm.CreateToken{Id: "root", Role: access.Admin.String(), Hash: tokenHash("root")}}
	for i, id := range nodeIDs {
		commands = append(commands, &fsm.SetNode{Id: string(id), Addr: fmt.Sprintf("%s:%d", id, i+1)})
	}
	commands = append(commands,
		&fsm.Declare{Prefix: []byte("a:"), Writer: "n1", Fallback: "n2"},
		&fsm.Declare{Prefix: []byte("b:"), Writer: "n2"},
		&fsm.Declare{Prefix: []byte("c:"), Writer: "n3", Fallback: "n1", Failover: "manual"},
		&fsm.Declare{Prefix: []byte("d:"), Writer: "n1", Lease: "always"})
	for _, c := range commands {
		e := fsm.Envelope{RequestID: w.draw("req"), Actor: "founder", Command: c}
		raw, _ := e.Encode()
		data, _ := fsm.EncodeEntry(1, [][]byte{raw})
		w.log.append(&entry{data: data, commands: []fsm.Envelope{e}, term: w.log.term})
	}
	cl := w.log.last.Cluster()
	w.check.eras[agent.Incarnation{Number: cl.Incarnation, Tag: cl.Tag}] = 0
	w.log.replicate()
	w.servers[0].apply(w.log.index)
	for _, n := range w.nodes {
		n.boot()
	}
	w.watchLeader()
	w.after(300*time.Millisecond, func() { w.clientLoop(60 * time.Millisecond) })
	w.after(time.Second, w.keepChecking)
}

func (w *world) keepChecking() {
	w.check.kept()
	w.after(500*time.Millisecond, w.keepChecking)
}

// healTime is how long after the last fault everything must be in order: a few
// leases, the longest window and timeout of a move, and the grace of cleanups.
const healTime = 100 * time.Second

// heal ends all faults. What an operator switched off is switched on again.
func (w *world) heal() {
	w.healing, w.trap = true, ""
	w.note("HEAL")
	w.cuts, w.bad, w.slow = map[[2]string]bool{}, 0, map[string]time.Duration{}
	for _, s := range w.servers {
		w.startServer(s)
		w.resumeServer(s)
	}
	if l := w.log.leader; l != nil {
		for _, s := range w.servers {
			if s != l {
				s.hearOfLeader(l, w.log.term)
			}
		}
	}
	w.log.replicate()
	for _, n := range w.nodes {
		if n.paused {
			n.resume()
		}
		n.off = false
		w.sendAway(n)
		w.startNode(n)
	}
	w.keepNodesUp()
	if w.faulted() {
		w.restore(w.backup, w.log.last.Cluster().Incarnation+1, true, false)
	}
	if cl := w.log.last.Cluster(); cl.Hold && !cl.Complete {
		w.releaseAll(cl.Tag)
	}
}

// keepNodesUp starts what was shut down. Of a node whose disk was replaced, and
// which a restore knows by the old one, the operator says that this is off for
// good, which it is.
func (w *world) keepNodesUp() {
	for _, n := range w.nodes {
		w.startNode(n)
		known, _ := w.log.last.Node(n.id)
		if n.alive && w.nodeNamed(n.id) == n && !known.Live() && known.Identity != "" && known.Identity != n.disk.identity {
			w.tell(&fsm.FenceNode{Node: string(n.id), Identity: known.Identity}, ignore)
		}
	}
	w.after(time.Second, w.keepNodesUp)
}

// sendAway ends the machine that has no right to its node's id: the one whose
// data never had the session, or not last.
func (w *world) sendAway(n *node) {
	if w.instances(n.id) > 1 && w.nodeNamed(n.id) != n {
		n.off = true
		if n.alive {
			n.crash()
		}
	}
}

// faulted reports whether a node has met two incarnations of one number, which
// only a further restore mends.
func (w *world) faulted() bool {
	for _, n := range w.nodes {
		if n.st.Fault() != "" {
			return true
		}
	}
	return false
}

// unsettled says what is not in order, "" when all is.
func (w *world) unsettled() string {
	st := w.log.last
	for m := range st.Moves().Running() {
		return fmt.Sprintf("move %s of %q from %s to %s is %s", m.ID, m.Prefix, m.From, m.To, m.Phase)
	}
	for c := range st.CleanupsOver("") {
		return fmt.Sprintf("node %s still owes a cleanup of %q", c.Node, c.Prefix)
	}
	if st.Cluster().Hold {
		return st.HoldText()
	}
	for n := range st.Nodes() {
		m := w.nodeNamed(n.ID)
		if !n.Live() || !m.alive || !m.st.Ready() {
			return fmt.Sprintf("node %s has the session %q, runs: %v, is ready: %v %s", n.ID, n.Session.ID, m.alive, m.st.Ready(), m.st.Fault())
		}
	}
	return ""
}

// settled: I8, a while after the last fault all is in order, and every scope takes
// a write.
func (w *world) settled() {
	if w.violation != nil {
		return
	}
	if what := w.unsettled(); what != "" {
		w.fail("I8", "%s after the last fault: %s", healTime, what)
		return
	}
	st := w.log.last
	w.check.kept()
	open := map[scope.Prefix]bool{}
	for s := range st.Scopes().Scopes() {
		open[s.Prefix] = true
		w.probe(s.Prefix, 50, func() { delete(open, s.Prefix) })
	}
	for end := w.now + 30*time.Second; len(open) > 0 && w.now < end && w.violation == nil; {
		w.run(w.now + 500*time.Millisecond)
	}
	for s := range st.Scopes().Scopes() {
		if n := w.nodeNamed(s.Owner); open[s.Prefix] {
			w.fail("I8", "scope %q takes no write, and its owner %s lives: %s", s.Prefix, n.name, n.refusal)
		}
	}
	w.check.kept()
}

// probe writes to a scope's owner until that is acknowledged.
func (w *world) probe(p scope.Prefix, tries int, then func()) {
	s, still := w.log.last.Scopes().Get(p)
	if !still {
		then() // an operator's word from before came through
		return
	}
	key := string(p) + "probe"
	w.write(key, w.nodeNamed(s.Owner), func(acked bool) {
		switch {
		case acked:
			then()
		case tries > 0:
			w.after(500*time.Millisecond, func() { w.probe(p, tries-1, then) })
		}
	})
}
