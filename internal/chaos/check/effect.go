package check

import (
	"maps"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// patience is how long an answer must have been missing to count: a server that
// is whole answers far sooner.
const patience = time.Second

// Impact is what clients noticed of a fault. The counts are of operations
// called while it was in force; those that were answered, were answered then.
type Impact struct {
	LocalReads   int            `json:"local_reads_at_struck"` // answered
	Answered     int            `json:"answered_at_struck"`    // changes and linearizable reads
	Turned       int            `json:"turned_away_at_struck"` // changes and linearizable reads without an answer
	Acknowledged map[string]int `json:"acknowledged"`          // changes, by server
	// Unavailable is the longest time between two acknowledged changes, from the
	// last one before the fault on.
	Unavailable time.Duration `json:"unavailable_ns"`
	// SlowestMS is the longest time that a change took which was called and acknowledged while it was in force; Limited are the
	// changes that were refused for want of space, Reads the linearizable reads that were answered, by any server.
	SlowestMS int64 `json:"slowest_ms,omitempty"`
	Limited   int   `json:"limited,omitempty"`
	Reads     int   `json:"reads,omitempty"`
	// Of struck data nodes: writes that they accepted, and that were tried there, while it was in force; and the longest
	// time in which no write of a scope was acknowledged, at any node.
	Written int           `json:"written_at_struck,omitempty"`
	Tried   int           `json:"tried_at_struck,omitempty"`
	Silent  time.Duration `json:"scope_unavailable_ns,omitempty"`
}

// ImpactOf works out what clients noticed of a fault.
func ImpactOf(run *history.Run, f history.Fault) Impact {
	im := Impact{Acknowledged: map[string]int{}, Unavailable: unavailable(run, f)}
	for i := range run.Ops {
		op := &run.Ops[i]
		if op.Call < f.Active || op.Call > f.Heal {
			if waited(op, f) {
				im.Turned++
			}
			continue
		}
		struck := slices.Contains(f.Servers, op.Server)
		answered := spoke(op) && op.Return <= f.Heal
		switch {
		case answered && op.Kind == history.Local && struck:
			im.LocalReads++
		case op.Kind == history.Local:
		case answered && struck:
			im.Answered++
		case struck && f.Heal-op.Call >= patience:
			im.Turned++
		}
		switch {
		case answered && op.Kind.Mutates() && op.Outcome == history.OK:
			im.Acknowledged[op.Server]++
			im.SlowestMS = max(im.SlowestMS, (op.Return - op.Call).Milliseconds())
		case op.Code == api.Limit:
			im.Limited++
		case answered && op.Kind == history.Read && op.Outcome == history.OK:
			im.Reads++
		}
	}
	im.Written, im.Tried = written(run, f)
	im.Silent = silentWrites(run, f)
	return im
}

// waited reports whether a client had asked a struck server for a change or a linearizable read before the fault was in
// force, and then had no answer for as long as counts.
func waited(op *history.Op, f history.Fault) bool {
	answered := spoke(op) && op.Return <= f.Heal
	return slices.Contains(f.Servers, op.Server) && op.Kind != history.Local && !answered && op.Call < f.Active &&
		min(op.Return, f.Heal) >= f.Active+patience
}

func unavailable(run *history.Run, f history.Fault) time.Duration {
	last, longest := f.Begin, time.Duration(0)
	for i := range run.Ops { // in the order of their returns
		op := &run.Ops[i]
		if op.Outcome != history.OK || !op.Kind.Mutates() {
			continue
		}
		if op.Return > f.Begin {
			longest = max(longest, op.Return-last)
		}
		if last = op.Return; last >= f.End {
			break
		}
	}
	return max(longest, f.End-last)
}

// Effect makes sure that every fault was what its name says. A fault that is
// not known here shows nothing. Servers that do not serve again, once one was
// undone, break a promise.
func Effect(run *history.Run) Result {
	r := Result{Name: "effect", Unit: "faults"}
	for _, f := range run.Faults {
		r.Checked++
		if f.Unhealed {
			r.violated("fault %s of %v did not heal: %s", f.Name, f.Servers, f.Error)
			continue
		}
		r.Voids = append(r.Voids, Lacks(f, ImpactOf(run, f))...)
	}
	if len(run.Faults) == 0 {
		r.void("there was no fault")
	}
	return r
}

// Lacks is what is missing to show that a fault was what its name says: nothing, if it took effect.
func Lacks(f history.Fault, im Impact) []string {
	var r Result
	prove, ok := proofs[f.Name]
	switch {
	case !ok:
		r.void("fault %s: nothing is known that would show its effect", f.Name)
	case f.Error != "":
		r.void("fault %s: %s", f.Name, f.Error)
	case f.Active < f.Begin || f.Heal <= f.Active || f.End < f.Heal || len(f.Servers) == 0:
		r.void("fault %s: it was not in force for any time (%v to %v) on any server (%v)", f.Name, f.Active, f.Heal, f.Servers)
	default:
		for _, p := range prove {
			p(&r, f, im)
		}
	}
	return r.Voids
}

func (r *Result) readdressed(f history.Fault, im Impact) {
	for _, s := range f.Servers {
		before, after := f.Before[s], f.After[s]
		r.holds(f, after.Peer != "" && after.Peer != before.Peer, "the address of %s is %q and was %q", s, after.Peer, before.Peer)
		r.holds(f, after.State == "running" && after.PID != before.PID, "%s is %q afterwards, process %d after %d",
			s, after.State, after.PID, before.PID)
	}
	r.holds(f, len(f.Servers) > 1, "only one server was restarted, so none had to find another at a new address")
	for _, s := range slices.Sorted(maps.Keys(f.Before)) {
		r.holds(f, f.Together || f.Before[s].Node || im.Acknowledged[s] > 0, "%s acknowledged nothing with the new addresses", s)
	}
}
