package sim

import (
	"sort"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
)

// op is one write of a client: of a new value, or a deletion.
type op struct {
	id     int
	key    string
	val    int // 0 deletes
	n      *node
	life   int
	token  agent.Token
	start  time.Duration // admitted
	exec   int           // position among all executions; 0 is not executed
	ticket agent.Ticket
}

func sortedOps(ops map[int]*op) []*op {
	out := make([]*op, 0, len(ops))
	for _, o := range ops { // order-free: sorted below
		out = append(out, o)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].id < out[j].id })
	return out
}

// keys of all scopes that are ever declared, and of some that are not.
var keys = []string{"a:1", "a:2", "a:3", "a:x:1", "b:1", "b:2", "b:x:1", "c:1", "c:2", "c:x:1", "d:1", "d:x:1", "z:1"}

// write has a client write something somewhere: mostly at the owner.
func (w *world) write(key string, at *node, then func(acked bool)) {
	w.ids++
	o := &op{id: w.ids, key: key, val: w.ids, n: at}
	if w.clients.oneIn(6) {
		o.val = 0
	}
	w.after(w.clients.between(fast, 5*time.Millisecond), func() {
		if at.alive {
			at.do(at.life, func() { at.admit(o, then) })
		}
	})
}

// clientLoop writes for as long as the world runs.
func (w *world) clientLoop(every time.Duration) {
	key := keys[w.clients.below(len(keys))]
	at := w.nodes[w.clients.below(len(w.nodes))]
	if s, ok := w.log.last.Scopes().Lookup([]byte(key)); ok && !w.clients.oneIn(3) {
		at = w.nodeNamed(s.Owner)
	}
	w.write(key, at, func(bool) {})
	if w.healing {
		every = max(every, 400*time.Millisecond)
	}
	w.after(w.clients.between(every/2, every*3/2), func() { w.clientLoop(every) })
}

func (n *node) admit(o *op, then func(bool)) {
	t, err := n.adm.Enter([]byte(o.key), n.clock, 0)
	if err != nil {
		n.w.count("write refused " + string(api.CodeOf(err)))
		n.refusal = err.Error()
		then(false)
		return
	}
	o.life, o.token, o.start, o.ticket = n.life, t.Token(), n.w.now, t
	n.ops[o.id] = o
	n.w.check.admitted(o)
	d := n.rng.between(fast, slow)
	switch {
	case n.rng.oneIn(40):
		d = n.rng.between(0, 4*time.Second)
	case n.rng.oneIn(150):
		d = n.rng.between(0, 16*time.Second)
		n.w.count("write stuck in the store")
	}
	if n.stuckFor > 0 && n.stuckOn.Matches([]byte(o.key)) {
		d, n.stuckFor = n.stuckFor, 0
		n.w.count("write stuck in the store")
	}
	n.after(d, func() { n.execute(o, then) })
}

func (n *node) execute(o *op, then func(bool)) {
	n.disk.store.put(o.key, o.val)
	n.w.check.executed(o)
	d := n.rng.between(fast, 3*time.Millisecond)
	if n.rng.oneIn(60) {
		d = n.rng.between(0, 3*time.Second)
	}
	n.after(d, func() {
		n.disk.store.sync()
		err := n.adm.Check(&o.ticket, []byte(o.key), n.clock)
		if err == nil {
			n.w.count("write acknowledged")
			n.w.check.acked(o)
		} else {
			n.w.count("write of unknown outcome")
		}
		n.adm.Leave(&o.ticket)
		delete(n.ops, o.id)
		then(err == nil)
		n.lookDrained()
	})
}
