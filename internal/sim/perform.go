package sim

import (
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// performFault does something to a node or the network, by number.
func (w *world) performFault(a action) bool {
	n, o := w.nodes[a.a%len(w.nodes)], w.nodes[a.b%len(w.nodes)]
	switch a.kind {
	case "crash node":
		w.crashNode(n, min(a.d, 5*time.Second))
	case "pause node":
		w.pauseNode(n, a.d)
	case "cut node":
		w.cutNode(n, a.d)
	case "cut nodes":
		w.count("fault: nodes cut from each other")
		w.cutOff(n.proc, []*proc{o.proc}, false, a.d)
	case "cut one way":
		w.count("fault: one direction cut")
		w.cutOff(n.proc, w.serverProcs(), true, a.d)
	case "shutdown node":
		w.shutdown(n, a.d, false)
	case "wipe":
		w.wipe(n)
	case "impostor":
		w.impostor(n)
	case "bad network":
		w.count("fault: bad network")
		w.bad = max(w.bad, w.now+min(a.d, 9*time.Second))
	case "trap":
		w.trap, w.trapFor = traps[a.b%len(traps)], a.d
	case "slow seals":
		w.seals = w.now + a.d
	case "slow deletes":
		w.deletes = w.now + a.d
	case "slow watchers":
		w.count("fault: watchers too slow")
		for _, s := range w.servers {
			for _, x := range s.streams {
				x.end(api.Slow)
			}
		}
	case "break watches":
		w.breakWatches(nil)
	default:
		return false
	}
	return true
}

// performOnServer does something to a server.
func (w *world) performOnServer(a action) bool {
	s := w.servers[a.a%len(w.servers)]
	leader := w.log.leader
	if leader == nil {
		leader = s
	}
	switch a.kind {
	case "crash server":
		w.crashServer(s, a.d)
	case "crash leader":
		w.crashServer(leader, a.d)
	case "pause server":
		w.pauseServer(s, a.d)
	case "pause leader":
		w.pauseServer(leader, a.d)
	case "stop leader's clock": // too short for an election
		w.pauseServer(leader, min(a.d, 1400*time.Millisecond))
	case "cut follower":
		for _, o := range w.servers {
			if o != leader {
				s = o
			}
		}
		w.count("fault: server cut off")
		w.cutOff(s.proc, w.serverProcs(), false, a.d)
	case "cut server":
		w.count("fault: server cut off")
		w.cutOff(s.proc, w.serverProcs(), false, a.d)
	case "cut leader":
		w.count("fault: leader cut off")
		w.cutOff(leader.proc, w.serverProcs(), false, a.d)
	case "transfer":
		w.transfer(s)
	default:
		return false
	}
	return true
}

// performOnOwner does something to a node for its part in a scope.
func (w *world) performOnOwner(a action) bool {
	p := w.scopeOf(action{a: a.a % len(prefixes)})
	s, ok := w.log.last.Scopes().Get(p)
	if !ok {
		return true
	}
	owner, source, target := w.nodeNamed(s.Owner), w.nodeNamed(s.Owner), w.nodeNamed(s.Owner)
	if m, running := w.log.last.Moves().LookupMigrating(p); running {
		source, target = w.nodeNamed(m.From), w.nodeNamed(m.To)
	} else if m, done := w.log.last.Moves().LookupMigrated(p); done {
		source, target = w.nodeNamed(m.From), w.nodeNamed(m.To)
	}
	switch a.kind {
	case "cut owner":
		w.cutNode(owner, a.d)
	case "cut source":
		w.cutNode(source, a.d)
	case "cut pair":
		w.count("fault: nodes cut from each other")
		w.cutOff(owner.proc, []*proc{w.nodeNamed(w.idAt(2)).proc, w.nodeNamed(w.idAt(3)).proc}, false, a.d)
	case "pause owner":
		w.pauseNode(owner, a.d)
	case "pause source":
		w.pauseNode(source, a.d)
	case "crash owner":
		w.crashNode(owner, a.d)
	case "crash source":
		w.crashNode(source, a.d)
	case "crash target":
		w.crashNode(target, a.d)
	case "shutdown target":
		w.shutdown(target, a.d, a.flag)
	case "stale owner", "stale source", "stale watch":
		w.staleView(pick(w.operator.rng, owner, source, target), a.d+2*time.Second)
	case "leave owner with the leader":
		w.leaveWithLeader(owner, a.d)
	case "impostor of owner":
		w.impostor(owner)
	case "stuck":
		w.stuck(owner, p, a.d)
	case "slow answers":
		w.slowAnswers(owner, a.d)
	case "move back":
		w.moveBack(p, source.id)
	case "force back":
		w.force(p, indexOf(source.id))
	default:
		return false
	}
	return true
}

func indexOf(id scope.NodeID) int {
	for i, o := range nodeIDs {
		if o == id {
			return i
		}
	}
	return 0
}

func (w *world) cutNode(n *node, d time.Duration) {
	w.note("%s is cut off from all servers for %s", n.name, d)
	w.count("fault: node cut off")
	w.cutOff(n.proc, w.serverProcs(), false, d)
}

// shutdown has a node close its session; then it may get an empty disk, and it
// starts again.
func (w *world) shutdown(n *node, down time.Duration, wiped bool) {
	if !n.alive || n.paused {
		return
	}
	w.count("fault: node shut down")
	w.note("%s is shut down", n.name)
	n.step(shutdownEvent)
	var look func()
	look = func() {
		switch {
		case !n.stopped:
			w.later(200*time.Millisecond, look)
		case wiped:
			w.wipe(n)
			w.startNode(n)
		default:
			w.later(down, func() { w.startNode(n) })
		}
	}
	look()
}

// breakWatches ends the watch streams of one node, or of all.
func (w *world) breakWatches(of *node) {
	w.count("fault: watch streams broken")
	for _, s := range w.servers {
		for _, x := range s.streams {
			if of == nil || x.n == of {
				x.end("")
			}
		}
	}
}

// staleView leaves a node with a server that is cut off from the others, so that
// it sees nothing new, also if it starts again.
func (w *world) staleView(n *node, d time.Duration) {
	var behind *server
	for _, s := range w.servers {
		if s != w.log.leader && s.alive {
			behind = s
		}
	}
	if behind == nil {
		return
	}
	w.count("fault: node left with a server that is behind")
	w.note("%s is left with %s, which is cut off, for %s", n.name, behind.name, d)
	w.cutOff(behind.proc, w.serverProcs(), false, d)
	var others []*proc
	for _, s := range w.servers {
		if s != behind {
			others = append(others, s.proc)
		}
	}
	w.cutOff(n.proc, others, false, d/2)
	w.breakWatches(n)
}

// leaveWithLeader stops the leader for so long that another one is elected, and
// leaves a node with nobody else to ask.
func (w *world) leaveWithLeader(n *node, d time.Duration) {
	l := w.log.leader
	if l == nil || !l.alive || l.paused {
		return
	}
	w.count("fault: node left with a leader that was stopped")
	w.note("%s can reach nobody but %s", n.name, l.name)
	var others []*proc
	for _, s := range w.servers {
		if s != l {
			others = append(others, s.proc)
		}
	}
	w.cutOff(n.proc, others, false, d+6*time.Second)
	w.pauseServer(l, d)
}

// stuck has a write wait in the store of a node for long.
func (w *world) stuck(n *node, p scope.Prefix, d time.Duration) {
	n.stuckFor, n.stuckOn = d, p
	for _, key := range keys {
		if p.Matches([]byte(key)) {
			w.write(key, n, func(bool) {})
			w.write(key, n, func(bool) {})
		}
	}
}

// slowAnswers delays what servers send to a node, and nothing else.
func (w *world) slowAnswers(n *node, d time.Duration) {
	w.count("fault: slow answers")
	w.slow[n.name] = w.now + d
}

func (w *world) moveBack(p scope.Prefix, to scope.NodeID) {
	s, ok := w.log.last.Scopes().Get(p)
	if !ok {
		return
	}
	if s.Owner == to {
		to = s.Writer
	}
	w.move(p, indexOf(to), "", false)
}

// moveLong starts a move that has time.
func (w *world) moveLong(p scope.Prefix, to int) {
	s, ok := w.log.last.Scopes().Get(p)
	if !ok {
		return
	}
	for w.idAt(to) == s.Owner || w.idAt(to) == s.Fallback {
		to++
	}
	w.tell(&fsm.StartMove{Id: w.draw("mv"), Prefix: p.Bytes(), From: string(s.Owner), To: string(w.idAt(to)), WindowMs: 40_000, TimeoutMs: 40_000}, ignore)
}
