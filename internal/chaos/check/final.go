package check

import (
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// Hashes compares the states of the servers: equal index, equal hash, whenever
// they were asked; and at the end all three are ready, at one index, with no
// move running and no cleanup pending.
func Hashes(run *history.Run) Result {
	r := Result{Name: "hashes", Unit: "state hashes"}
	type state struct{ server, hash string }
	at := map[uint64]state{}
	final := false
	for _, s := range run.Samples {
		for _, m := range s.Cluster.Members {
			if m.StateHash == "" {
				continue
			}
			r.Checked++
			first, ok := at[m.Index]
			switch {
			case !ok:
				at[m.Index] = state{m.ID, m.StateHash}
			case first.hash != m.StateHash:
				r.violated("at index %d %s has the state %s and %s %s", m.Index, first.server, first.hash, m.ID, m.StateHash)
			}
		}
		if s.Final {
			final = true
			r.ended(run, s)
		}
	}
	if !final {
		r.void("the run was over before the servers were looked at for the last time")
	}
	return r
}

func (r *Result) ended(run *history.Run, s history.Sample) {
	c := s.Cluster
	if len(c.Members) != len(run.Setup.Servers) {
		r.violated("at the end %s shows %d servers, not %d", s.Server, len(c.Members), len(run.Setup.Servers))
	}
	for _, m := range c.Members {
		if m.Error != "" || !m.Ready || m.StateHash == "" || m.Index != c.Members[0].Index {
			r.violated("at the end %s is at index %d (ready: %v, hash %.12s, %s), and %s at %d",
				m.ID, m.Index, m.Ready, m.StateHash, m.Error, c.Members[0].ID, c.Members[0].Index)
		}
	}
	if c.Moves != 0 || c.Cleanups != 0 {
		r.violated("at the end %d moves run and %d cleanups are pending", c.Moves, c.Cleanups)
	}
}

// What a run must at least have done, or it shows nothing. A fault leaves few
// acknowledged operations, so these are far below what a good run reaches.
const (
	MinMoves    = 100 // done
	MinAborted  = 20
	MinDeclares = 200 // acknowledged
	MinReads    = 200 // linearizable, answered
)

// Counts makes sure that enough was done.
func Counts(run *history.Run) Result {
	r := Result{Name: "counts", Unit: "operations"}
	done := map[history.Kind]int{}
	servers := map[string]int{}
	for _, op := range run.Ops {
		r.Checked++
		if op.Outcome == history.OK {
			done[op.Kind]++
			if op.Kind.Mutates() {
				servers[op.Server]++
			}
		}
	}
	for _, want := range []struct {
		kind history.Kind
		min  int
		what string
	}{
		{history.Ready, MinMoves, "moves done"}, {history.Abort, MinAborted, "moves aborted"},
		{history.Declare, MinDeclares, "acknowledged declares"}, {history.Read, MinReads, "linearizable reads"},
	} {
		if done[want.kind] < want.min {
			r.void("only %d %s, at least %d belong to a run; let it last longer", done[want.kind], want.what, want.min)
		}
	}
	for _, server := range run.Setup.Servers {
		if servers[server] == 0 {
			r.void("%s acknowledged no change", server)
		}
	}
	return r
}
