package check

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// turnedAway records a read that a server did not answer.
func (r *rig) turnedAway(server string) {
	r.now += time.Millisecond
	r.run.Ops = append(r.run.Ops, history.Op{N: len(r.run.Ops) + 1, Server: server, Kind: history.Read, Prefix: "p:",
		Call: r.now, Return: r.now, Outcome: history.Failed, Code: api.NoLeader})
}

// fault records a fault of s1, and of s2 when addresses change, as it looks when
// it takes effect; during is what clients do then.
func (r *rig) fault(name string, during func()) {
	up := func(pid int, peer string) history.Machine {
		return history.Machine{State: "running", PID: pid, Peer: peer}
	}
	machines := func() map[string]history.Machine {
		return map[string]history.Machine{"s1": up(1, "10.0.0.1"), "s2": up(2, "10.0.0.2"), "s3": up(3, "10.0.0.3")}
	}
	f := history.Fault{Name: name, Servers: []string{"s1"}, Leader: "s1", Elected: "s2", Before: machines(), During: machines(), After: machines()}
	switch name {
	case history.Kill:
		f.During["s1"], f.After["s1"] = history.Machine{State: "exited"}, up(11, "10.0.0.1")
	case history.Pause:
		f.Silent = true
		f.During["s1"] = history.Machine{State: "paused", PID: 1, Peer: "10.0.0.1"}
	case history.Partition:
		f.During["s1"] = up(1, "")
	case history.Readdress:
		f.Servers, f.Elected = []string{"s1", "s2"}, ""
		f.After["s1"], f.After["s2"] = up(12, "10.0.0.2"), up(22, "10.0.0.1")
	}
	r.now += time.Second
	f.Begin = r.now
	r.now += time.Second
	f.Active = r.now
	r.now += time.Second
	f.ElectedAt = r.now
	during()
	r.now += time.Second
	f.Heal = r.now
	r.now += time.Second
	f.End = r.now
	r.run.Faults = append(r.run.Faults, f)
}

// cleanRun is a history without a fault of the registry.
func cleanRun(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.do("s1", history.Declare, "p:", history.Arg{Writer: "a", Fallback: "v1"})
	r.do("s2", history.Declare, "q:", history.Arg{Writer: "b"})
	r.do("s3", history.Read, "p:", history.Arg{})
	r.move("s2", "p:", "m1", "a", "b")
	r.move("s3", "p:", "m2", "b", "c")
	r.do("s1", history.Local, "p:", history.Arg{})
	r.do("s1", history.Start, "p:", history.Arg{Move: "m3", From: "c", To: "a", PreCopy: true})
	r.do("s2", history.Quiesce, "p:", history.Arg{Move: "m3"})
	r.do("s2", history.Read, "p:", history.Arg{})
	r.do("s2", history.Abort, "p:", history.Arg{Move: "m3"})
	change := func(servers ...string) {
		for i, s := range servers {
			r.do(s, history.Declare, "p:", history.Arg{Writer: "c", Fallback: []string{"v1", "v2", "v3"}[i]})
		}
	}
	r.fault(history.Kill, func() { change("s2", "s3") })
	r.fault(history.Pause, func() { change("s3", "s2") })
	r.fault(history.Partition, func() {
		r.turnedAway("s1")
		r.do("s1", history.Local, "q:", history.Arg{})
		change("s2", "s3")
	})
	r.fault(history.Readdress, func() { change("s1", "s2", "s3") })
	q := r.do("s1", history.Read, "q:", history.Arg{})
	r.do("s1", history.Retire, "q:", history.Arg{Epoch: q.Got.Scope.Epoch})
	r.do("s2", history.Read, "q:", history.Arg{})
	for _, s := range rigServers {
		r.do(s, history.Read, "p:", history.Arg{})
	}
	r.sample(false)
	r.rest()
	return r
}

// last is the last operation of a kind that was acknowledged.
func last(run *history.Run, k history.Kind) *history.Op {
	for i := len(run.Ops) - 1; i >= 0; i-- {
		if run.Ops[i].Kind == k && run.Ops[i].Outcome == history.OK {
			return &run.Ops[i]
		}
	}
	return nil
}

func TestCleanRunPasses(t *testing.T) {
	found := findings(&cleanRun(t).run)
	delete(found, "counts") // it is far too short
	if len(found) > 0 {
		t.Errorf("a clean run is found fault with: %v", found)
	}
}

// forget takes the changes of an index out of the watches of some servers.
func forget(run *history.Run, index uint64, servers ...string) {
	run.Seen = slices.DeleteFunc(run.Seen, func(s history.Seen) bool {
		return s.Item.Type == "change" && s.Item.Index == index && slices.Contains(servers, s.Server)
	})
}

func faultNamed(run *history.Run, name string) *history.Fault {
	for i := range run.Faults {
		if run.Faults[i].Name == name {
			return &run.Faults[i]
		}
	}
	return nil
}

// planted are the things a registry, or a harness, must not get away with: what
// is done to a clean history, which checkers must find it, and a word of theirs.
var planted = []struct {
	name  string
	by    []string
	says  string
	plant func(t *testing.T, r *rig)
}{
	{"acknowledged write lost", []string{"acknowledged"}, "is lost", func(_ *testing.T, r *rig) {
		forget(&r.run, last(&r.run, history.Declare).Got.Index, rigServers...)
	}},
	{"acknowledged write lost, seen by a read", []string{"linearizable"}, "no order explains", func(_ *testing.T, r *rig) {
		op := *last(&r.run, history.Declare)
		op.Arg.Fallback = "v1" // the last reads do not show it
		op.Call, op.Return = op.Return+1, op.Return+2
		r.run.Ops = append(r.run.Ops, op)
	}},
	{"stale linearizable read", []string{"linearizable", "order", "indexes"}, "", func(t *testing.T, r *rig) {
		old := r.run.Ops[2] // shows p: before its first move
		if old.Kind != history.Read {
			t.Fatalf("operation 3 is %v", old.Kind)
		}
		old.N, old.Call, old.Return = len(r.run.Ops)+1, r.now, r.now+1
		r.run.Ops = append(r.run.Ops, old)
	}},
	{"stale read with a fresh index", []string{"linearizable", "views"}, "", func(_ *testing.T, r *rig) {
		op := last(&r.run, history.Read)
		shown := *op.Got.Scope
		shown.Fallback = "v1"
		op.Got.Scope = &shown
	}},
	{"local read goes back", []string{"indexes"}, "went back", func(_ *testing.T, r *rig) {
		old := r.run.Ops[0]
		old.Kind, old.Got.Scope = history.Local, r.run.Ops[2].Got.Scope
		old.N, old.Call, old.Return = len(r.run.Ops)+1, r.now, r.now+1
		r.run.Ops = append(r.run.Ops, old)
	}},
	{"nothing is there after a restart", []string{"indexes"}, "went back", func(_ *testing.T, r *rig) {
		r.run.Ops = append(r.run.Ops, history.Op{N: len(r.run.Ops) + 1, Server: "s2", Kind: history.Local, Prefix: "p:", Call: r.now, Return: r.now + 1,
			Outcome: history.Refused, Code: api.NotFound})
	}},
	{"change before what was seen already", []string{"order"}, "called after index", func(_ *testing.T, r *rig) {
		op := *last(&r.run, history.Declare)
		op.Call, op.Return = r.now, r.now+1
		r.run.Ops = append(r.run.Ops, op)
	}},
	{"two compare-and-sets on one epoch", []string{"epochs", "linearizable"}, "", func(_ *testing.T, r *rig) {
		again := *last(&r.run, history.Ready)
		again.N, again.Server = len(r.run.Ops)+1, "s1"
		again.Arg.Move, again.Arg.To, again.Got.Epoch = "m9", "a", again.Got.Epoch+1
		r.run.Ops = append(r.run.Ops, again)
	}},
	{"two retires of one tenure", []string{"epochs"}, "two compare-and-sets", func(_ *testing.T, r *rig) {
		r.run.Ops = append(r.run.Ops, *last(&r.run, history.Retire))
	}},
	{"one epoch for two prefixes", []string{"epochs"}, "belongs to two prefixes", func(_ *testing.T, r *rig) {
		last(&r.run, history.Declare).Got.Epoch = r.run.Ops[1].Got.Epoch
	}},
	{"epoch goes back", []string{"epochs"}, "after", func(_ *testing.T, r *rig) {
		last(&r.run, history.Declare).Got.Epoch = 1
	}},
	{"a move that was started is forgotten", []string{"acknowledged"}, "does not know the move", func(_ *testing.T, r *rig) {
		r.run.Ops = append(r.run.Ops, history.Op{Kind: history.Abort, Prefix: "p:", Arg: history.Arg{Move: "m3"}, Call: r.now, Return: r.now,
			Outcome: history.Refused, Code: api.NotFound, Got: history.Got{Seen: r.index}})
	}},
	{"watch gap", []string{"watch"}, "has a gap", func(_ *testing.T, r *rig) {
		forget(&r.run, last(&r.run, history.Declare).Got.Index, "s2")
	}},
	{"watch differs", []string{"watch"}, "in that of", func(_ *testing.T, r *rig) {
		for i, s := range r.run.Seen {
			if s.Server == "s3" && s.Item.Type == "change" {
				r.run.Seen[i].Item.Changes = []api.Change{{Cause: "set", Op: "put", Node: &api.NodeState{Node: api.Node{ID: "a", Addr: "h:2"}}}}
				return
			}
		}
	}},
	{"watch repeats an index", []string{"watch"}, "after index", func(_ *testing.T, r *rig) {
		for _, s := range r.run.Seen {
			if s.Item.Type == "change" {
				r.run.Seen = append(r.run.Seen, s)
				return
			}
		}
	}},
	{"watch ends early", []string{"watch"}, "ended at index", func(_ *testing.T, r *rig) {
		r.run.Samples[len(r.run.Samples)-1].Cluster.Index += 5
	}},
	{"snapshot differs from the changes", []string{"watch"}, "snapshot", func(_ *testing.T, r *rig) {
		shown := *last(&r.run, history.Read).Got.Scope
		shown.Owner = "b"
		r.run.Seen = append(r.run.Seen, history.Seen{Server: "s1", Resync: true}, history.Seen{Server: "s1",
			Item: api.WatchItem{Type: "snapshot", Index: r.index, Changes: []api.Change{{Cause: "snapshot", Op: "put", Scope: &shown}}}})
	}},
	{"state hash differs", []string{"hashes"}, "has the state", func(_ *testing.T, r *rig) {
		r.run.Samples[0].Cluster.Members[2].StateHash = "other"
	}},
	{"servers not equal at the end", []string{"hashes"}, "at the end", func(_ *testing.T, r *rig) {
		r.run.Samples[1].Cluster.Members[2].Index--
		r.run.Samples[1].Cluster.Members[2].StateHash = "older"
	}},
	{"a move runs at the end", []string{"hashes"}, "moves run", func(_ *testing.T, r *rig) { r.run.Samples[1].Cluster.Moves = 1 }},
	{"changes are refused for good after a fault", []string{"effect"}, "fault partition of [s1] did not heal: server s2", func(_ *testing.T, r *rig) {
		f := faultNamed(&r.run, history.Partition)
		f.Unhealed, f.Error = true, "server s2 acknowledged no change within 20s"
	}},
	{"no look at the end", []string{"hashes"}, "over before", func(_ *testing.T, r *rig) { r.run.Samples = r.run.Samples[:1] }},
}

func TestPlantedViolationsAreFound(t *testing.T) {
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			r := cleanRun(t)
			p.plant(t, r)
			found := findings(&r.run)
			for _, by := range p.by {
				if len(found[by]) == 0 {
					t.Errorf("%s finds nothing; all findings: %v", by, found)
				}
			}
			if said := strings.Join(found[p.by[0]], "\n"); !strings.Contains(said, p.says) {
				t.Errorf("%s says %q, which is not about %q", p.by[0], said, p.says)
			}
		})
	}
}
