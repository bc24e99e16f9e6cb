package sim

import (
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// sent is the last slice that was shipped for a move.
type sent struct {
	stream int
	data   records
}

// maxShips bounds how often a source sends a slice anew before it gives up.
const maxShips = 6

// shipment is one stream of records from a source to a target.
type shipment struct {
	n       *node
	move    string
	to      scope.NodeID
	stream  int
	data    records
	keys    []string
	sent    int
	tries   int
	precopy bool
	done    func(error string)
}

// copySlice sends what the store holds now; what is written meanwhile comes with
// the ship.
func (n *node) copySlice(f agent.Copy) {
	n.begin(&shipment{n: n, move: f.Move, to: f.To, data: n.disk.store.data.slice(f.Prefix), precopy: true, done: func(string) {}})
}

// ship sends the whole closed slice.
func (n *node) ship(f agent.Ship) {
	data := n.disk.store.data.slice(f.Prefix)
	n.w.note("%s ships %s of %q: %v", n.name, f.Move, f.Prefix, data)
	n.trapShip()
	n.w.streams[f.Move] = sent{n.life*10000 + n.streams, data}
	n.begin(&shipment{n: n, move: f.Move, to: f.To, data: data, done: func(failure string) {
		if failure != "" {
			n.w.count("ship failed")
			n.step(agent.ShipFailed{Move: f.Move, Reason: failure})
			return
		}
		n.w.count("slice shipped")
		n.step(agent.Shipped{Move: f.Move, Manifest: data.manifest()})
	}})
}

func (n *node) begin(x *shipment) {
	n.streams++
	x.stream, x.sent = n.life*10000+n.streams, 0
	x.keys = x.data.under("")
	n.sending[x.move] = x.stream
	n.after(n.rng.between(fast, slow), x.next)
}

// next sends two more records, or the end.
func (x *shipment) next() {
	n := x.n
	if n.sending[x.move] != x.stream {
		return // stopped, or another stream has begun
	}
	to := n.w.nodeNamed(x.to)
	upto := min(x.sent+2, len(x.keys))
	batch := records{}
	for _, k := range x.keys[x.sent:upto] {
		batch[k] = x.data[k]
	}
	first, last := x.sent == 0, upto == len(x.keys)
	var sum migration.Manifest
	if last {
		sum = x.data.manifest()
	}
	n.w.call(n.proc, to.proc, 1500*time.Millisecond, func(reply func(any)) {
		reply(to.stage(x.move, x.stream, first, batch, last && !x.precopy, sum))
	}, func(v any, ok bool) {
		if n.sending[x.move] != x.stream {
			return
		}
		if ok && v == "" {
			x.took(upto, last)
			return
		}
		x.again(v)
	})
}

func (x *shipment) took(upto int, last bool) {
	x.sent = upto
	left := uint64(len(x.keys) - upto)
	if x.precopy && x.n.rng.oneIn(5) {
		return // it never reports that little is left
	}
	x.n.step(agent.Progressed{Move: x.move, Keys: uint64(upto), Bytes: uint64(10 * upto), KeysLeft: left, BytesLeft: 10 * left})
	if last {
		x.done("")
		return
	}
	x.n.after(x.n.rng.between(fast, slow), x.next)
}

// again sends the slice from the beginning after a failure.
func (x *shipment) again(why any) {
	if x.tries++; x.tries >= maxShips {
		text, _ := why.(string)
		x.done("target: " + text)
		return
	}
	x.n.w.count("stream begun anew")
	x.n.after(x.n.rng.between(slow, 300*time.Millisecond), func() {
		if x.n.sending[x.move] == x.stream {
			x.n.begin(x)
		}
	})
}

// stage takes records of a stream, "" is done. A stream begins with its first
// batch, which replaces what an earlier one brought.
func (n *node) stage(move string, stream int, first bool, batch records, last bool, sum migration.Manifest) string {
	if m, ok := n.disk.marks[move]; ok && last && m.Manifest == sum {
		return "" // sealed already, with just these records
	}
	if err := n.adm.Rules().Stages(move); err != nil {
		n.w.count("stream refused")
		return err.Error()
	}
	area := n.staging[move]
	switch {
	case area != nil && area.done:
		if last && area.data.manifest() == sum {
			return ""
		}
		return "complete already"
	case first && (area == nil || area.stream != stream):
		area = &staging{stream: stream, data: records{}}
		n.staging[move] = area
		n.step(agent.Staging{Move: move})
	case area == nil || area.stream != stream:
		return "not the stream that is under way"
	}
	for k, v := range batch { // order-free: into a map
		area.data[k] = v
	}
	if len(batch) > 0 && n.rng.oneIn(150) {
		n.w.count("fault: record lost in staging")
		delete(area.data, batch.under("")[0])
	}
	if !last {
		return ""
	}
	area.done = true
	n.step(agent.Received{Move: move, Manifest: area.data.manifest()})
	return ""
}
