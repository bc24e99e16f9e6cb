package check

import (
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/view"
)

var rigServers = []string{"s1", "s2", "s3"}

// rig makes histories with the real state machine: three servers that are
// always equal, clients that ask one after the other.
type rig struct {
	state fsm.State
	index uint64
	now   time.Duration
	run   history.Run
}

func newRig(t interface {
	Helper()
	Fatalf(format string, args ...any)
}) *rig {
	t.Helper()
	r := &rig{run: history.Run{Setup: history.Setup{Servers: rigServers}}}
	for _, s := range rigServers {
		r.run.Seen = append(r.run.Seen, history.Seen{Server: s, Item: api.WatchItem{Type: "snapshot"}})
	}
	for _, id := range []string{"a", "b", "c", "v1", "v2", "v3"} {
		if res := r.commit(&fsm.SetNode{Id: id, Addr: "h:1"}); res.Code != "" {
			t.Fatalf("node %s: %s", id, res.Detail)
		}
	}
	return r
}

// commit applies a command and tells all watches.
func (r *rig) commit(c fsm.Command) *fsm.Result {
	r.index++
	r.now += time.Millisecond
	next, res, events := r.state.Apply(fsm.At{Index: r.index, Term: 1, TimeMS: int64(r.index)}, fsm.Envelope{Command: c})
	r.state = next
	if len(events) > 0 {
		item := view.Item(fsm.Item{Index: r.index, Events: events}, fsm.Cluster{Incarnation: 1}, int64(r.index))
		for _, s := range rigServers {
			r.run.Seen = append(r.run.Seen, history.Seen{Server: s, At: r.now, Item: item})
		}
	}
	return res
}

// command is what a server makes of an operation.
func command(k history.Kind, prefix string, a history.Arg, tenure uint64) fsm.Command {
	switch k {
	case history.Declare:
		return &fsm.Declare{Prefix: []byte(prefix), Writer: a.Writer, Fallback: a.Fallback, ExpectedEpoch: a.Epoch}
	case history.Retire:
		return &fsm.Retire{Prefix: []byte(prefix), ExpectedEpoch: a.Epoch}
	case history.Start:
		return &fsm.StartMove{Id: a.Move, Prefix: []byte(prefix), From: a.From, To: a.To, ExpectedEpoch: a.Epoch, Mode: "assisted", Precopy: a.PreCopy}
	case history.Quiesce:
		return &fsm.Quiesce{Move: a.Move}
	case history.Shipped:
		return &fsm.Shipped{Move: a.Move, Manifest: &fsm.Manifest{Digest: a.Manifest}}
	case history.Ready:
		return &fsm.Ready{Move: a.Move, Manifest: &fsm.Manifest{Digest: a.Manifest}}
	case history.Abort:
		return &fsm.Abort{Move: a.Move}
	default:
		return &fsm.Cleaned{Node: a.From, Prefix: []byte(prefix), Epoch: tenure, Reason: "test"}
	}
}

// do has a client of a server do one operation.
func (r *rig) do(server string, k history.Kind, prefix string, a history.Arg) history.Op {
	r.now += time.Millisecond
	op := history.Op{N: len(r.run.Ops) + 1, Client: "c" + server, Server: server, Kind: k, Prefix: prefix, Arg: a, Tries: 1, Call: r.now, Outcome: history.OK}
	if k.Mutates() {
		m, _ := r.state.Moves().Get(a.Move)
		if res := r.commit(command(k, prefix, a, m.Epoch)); res.Code != "" {
			op.Outcome, op.Code = history.Refused, api.Code(res.Code)
			op.Got = history.Got{Epoch: res.Epoch, Move: res.Move}
		} else {
			op.Got = history.Got{Index: res.Index, Epoch: res.Epoch, Changed: res.Changed > 0, Tenure: m.Epoch}
			if k == history.Start {
				op.Got.Tenure = res.Epoch
			}
		}
	} else {
		r.look(&op)
	}
	op.Got.Seen = r.index
	r.now += time.Millisecond
	op.Return = r.now
	r.run.Ops = append(r.run.Ops, op)
	return op
}

func (r *rig) look(op *history.Op) {
	for sc := range r.state.Scopes().Scopes() {
		if string(sc.Prefix) == op.Prefix {
			shown := view.Scope(r.state, sc)
			op.Got.Scope = &shown
			return
		}
	}
	op.Outcome, op.Code = history.Refused, api.NotFound
}

// move takes a scope from a node to another one, all the way.
func (r *rig) move(server, prefix, id, from, to string) history.Op {
	a := history.Arg{Move: id, From: from, To: to, Manifest: "m"}
	r.do(server, history.Start, prefix, a)
	r.do(server, history.Shipped, prefix, a)
	op := r.do(server, history.Ready, prefix, a)
	r.do(server, history.Cleaned, prefix, a)
	return op
}

// sample has all servers tell their state.
func (r *rig) sample(final bool) {
	c := api.Cluster{Index: r.index, Moves: r.state.Moves().RunningLen(), Cleanups: r.state.CleanupsLen()}
	for _, s := range rigServers {
		c.Members = append(c.Members, api.Member{ID: s, Index: r.index, Ready: true, StateHash: r.state.Hash()})
	}
	r.run.Samples = append(r.run.Samples, history.Sample{Server: "s1", At: r.now, Final: final, Cluster: c})
}

// rest has a clean end.
func (r *rig) rest() {
	for _, s := range rigServers {
		r.run.Seen = append(r.run.Seen, history.Seen{Server: s, At: r.now, Item: api.WatchItem{Type: "heartbeat", Index: r.index}})
	}
	r.sample(true)
}

// findings are the checkers that a history fails, with what they say.
func findings(run *history.Run) map[string][]string {
	out := map[string][]string{}
	for _, c := range All(run, 10*time.Second) {
		if c.Failed() {
			out[c.Name] = append(append([]string(nil), c.Violations...), c.Voids...)
		}
	}
	return out
}
