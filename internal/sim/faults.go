package sim

import (
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// watchLeader elects another leader when the present one has not been heard for
// an election timeout.
func (w *world) watchLeader() {
	w.after(w.log.rng.between(200*time.Millisecond, 500*time.Millisecond), w.watchLeader)
	l := w.log.leader
	if l != nil && l.alive && !l.paused && l.leads() && l.hasMajority() {
		w.log.silent = 0
		return
	}
	if w.log.silent++; w.log.silent < 3 {
		return
	}
	if l != nil && l.alive && !l.paused && l.leads() {
		l.stepDown() // its own lease of leadership ended
	}
	var can []*server
	for _, s := range w.servers {
		if !s.leads() && s.alive && !s.paused && s.hasMajority() {
			can = append(can, s)
		}
	}
	if len(can) > 0 {
		w.log.silent = 0
		w.log.elect(can[w.log.rng.below(len(can))])
	}
}

// crashServer ends a server's process; it keeps its log.
func (w *world) crashServer(s *server, down time.Duration) {
	if !s.alive {
		return
	}
	w.note("%s crashes", s.name)
	w.count("fault: server crashed")
	s.die()
	s.lead, s.belief, s.ready, s.waiting = nil, nil, false, nil
	for _, x := range s.streams {
		x.end("")
	}
	s.streams = nil
	if w.log.leader == s && s.rng.oneIn(2) {
		w.log.silent = 2
	}
	w.after(down, func() { w.startServer(s) })
}

// startServer has a server read its snapshot and apply the entries after it. It
// serves nobody before it has heard from the leader.
func (w *world) startServer(s *server) {
	if s.alive {
		return
	}
	from := s.applied
	if from > 0 {
		from -= min(from-1, uint64(s.rng.below(60)))
		w.check.replayed(from, s.applied)
		w.count("snapshot read and log replayed")
	}
	s.alive = true
	s.floor = max(s.floor, from)
	if l := w.log.leader; l == s {
		w.log.leader = nil // it leads no more in its new life
	} else if l != nil {
		s.hearOfLeader(l, w.log.term)
	}
}

func (w *world) pauseServer(s *server, d time.Duration) {
	if !s.alive || s.paused {
		return
	}
	w.note("%s is paused for %s", s.name, d)
	w.count("fault: server paused")
	if w.log.leader == s {
		w.count("fault: leader paused")
	}
	s.pause()
	life := s.life
	w.after(d, func() {
		if s.paused && s.life == life && d > w.times.Late*5/2 { // it finds its tick late, however slow its clock
			s.countsFrom = w.now
		}
		w.resumeServer(s)
	})
}

func (w *world) resumeServer(s *server) {
	if !s.paused {
		return
	}
	w.note("%s is resumed", s.name)
	s.resume()
	if l := w.log.leader; l != s && l != nil {
		s.hearOfLeader(l, w.log.term) // a while later: until then it may believe that it leads
	}
}

// cutOff cuts a process off from others, in both directions or one.
func (w *world) cutOff(p *proc, from []*proc, oneWay bool, d time.Duration) {
	for _, o := range from {
		if o != p {
			w.cuts[[2]string{p.name, o.name}] = true
			if !oneWay {
				w.cuts[[2]string{o.name, p.name}] = true
			}
		}
	}
	w.after(d, func() { w.mend(p, from) })
}

func (w *world) mend(p *proc, from []*proc) {
	for _, o := range from {
		delete(w.cuts, [2]string{p.name, o.name})
		delete(w.cuts, [2]string{o.name, p.name})
	}
	if w.log.leader != nil {
		w.log.replicate()
	}
	for _, s := range w.servers {
		if s.proc == p && w.log.leader != nil && w.log.leader != s {
			s.hearOfLeader(w.log.leader, w.log.term)
		}
	}
}

func (w *world) serverProcs() []*proc {
	var out []*proc
	for _, s := range w.servers {
		out = append(out, s.proc)
	}
	return out
}

func (w *world) crashNode(n *node, down time.Duration) {
	if !n.alive {
		return
	}
	w.note("%s crashes", n.name)
	w.count("fault: node crashed")
	n.crash()
	w.after(down, func() { w.startNode(n) })
}

func (w *world) startNode(n *node) {
	if !n.alive && !n.off {
		w.note("%s starts", n.name)
		w.count("node started")
		n.boot()
	}
}

func (w *world) pauseNode(n *node, d time.Duration) {
	if !n.alive || n.paused {
		return
	}
	w.note("%s is paused for %s", n.name, d)
	w.count("fault: node paused")
	if d > w.times.Lease {
		w.count("fault: node suspended for longer than its lease")
	}
	n.pause()
	w.after(d, func() {
		if n.paused {
			w.note("%s is resumed", n.name)
			n.resume()
		}
	})
}

// wipe gives a node an empty disk, as an operator may whose node is shut down and
// has nothing: its session is closed, and it owns no scope.
func (w *world) wipe(n *node) {
	st := w.log.last
	known, ok := st.Node(n.id)
	if !ok || n.alive || known.Live() || w.instances(n.id) > 1 {
		return
	}
	for s := range st.Scopes().Scopes() {
		if s.Owner == n.id {
			return
		}
	}
	for m := range st.Moves().Running() {
		if m.To == n.id && m.Mode == migration.Assisted {
			return // the operator has copied to it
		}
	}
	w.count("fault: disk of a node that owns nothing replaced")
	w.note("%s gets an empty disk", n.name)
	n.disk = newDisk(w.draw("id"))
}

// instances is how many machines bear this node id.
func (w *world) instances(id scope.NodeID) int {
	count := 0
	for _, n := range w.nodes {
		if n.id == id {
			count++
		}
	}
	return count
}

// impostor starts a second machine under the id of a node, with an empty disk.
func (w *world) impostor(n *node) {
	if w.instances(n.id) > 1 {
		return
	}
	w.count("fault: a second machine under a node's id")
	x := w.newNode(n.name+"x", n.id, uint64(100+len(w.nodes)))
	w.note("%s starts beside %s", x.name, n.name)
	x.boot()
}

// nodeNamed is the machine at a node's address: that with the live session, or
// else the one whose data last had it.
func (w *world) nodeNamed(id scope.NodeID) *node {
	return w.machine(w.log.last, id)
}

func (w *world) machine(st fsm.State, id scope.NodeID) *node {
	var first *node
	known, _ := st.Node(id)
	for _, n := range w.nodes {
		if n.id != id {
			continue
		}
		if first == nil {
			first = n
		}
		if n.disk.identity == known.Identity {
			return n
		}
	}
	return first
}

func (w *world) diskOf(st fsm.State, id scope.NodeID) *disk { return w.machine(st, id).disk }
