package check

import (
	"fmt"
	"slices"
	"time"

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
}

// ImpactOf works out what clients noticed of a fault.
func ImpactOf(run *history.Run, f history.Fault) Impact {
	im := Impact{Acknowledged: map[string]int{}, Unavailable: unavailable(run, f)}
	for _, op := range run.Ops {
		if op.Call < f.Active || op.Call > f.Heal {
			continue
		}
		struck := slices.Contains(f.Servers, op.Server)
		answered := spoke(&op) && op.Return <= f.Heal
		switch {
		case answered && op.Kind == history.Local && struck:
			im.LocalReads++
		case op.Kind == history.Local:
		case answered && struck:
			im.Answered++
		case struck && f.Heal-op.Call >= patience:
			im.Turned++
		}
		if answered && op.Kind.Mutates() && op.Outcome == history.OK {
			im.Acknowledged[op.Server]++
		}
	}
	return im
}

func unavailable(run *history.Run, f history.Fault) time.Duration {
	last, longest := f.Begin, time.Duration(0)
	for _, op := range run.Ops { // in the order of their returns
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
// not known here shows nothing.
func Effect(run *history.Run) Result {
	r := Result{Name: "effect", Unit: "faults"}
	proofs := map[string]func(*Result, history.Fault, Impact){
		history.Kill: (*Result).killed, history.Pause: (*Result).paused,
		history.Partition: (*Result).partitioned, history.Readdress: (*Result).readdressed,
	}
	for _, f := range run.Faults {
		r.Checked++
		prove, ok := proofs[f.Name]
		switch {
		case !ok:
			r.void("fault %s: nothing is known that would show its effect", f.Name)
		case f.Error != "":
			r.void("fault %s: %s", f.Name, f.Error)
		case f.Active < f.Begin || f.Heal <= f.Active || f.End < f.Heal || len(f.Servers) == 0:
			r.void("fault %s: it was not in force for any time (%v to %v) on any server (%v)", f.Name, f.Active, f.Heal, f.Servers)
		default:
			prove(&r, f, ImpactOf(run, f))
		}
	}
	if len(run.Faults) == 0 {
		r.void("there was no fault")
	}
	return r
}

// holds voids the run unless what must be true of a fault is.
func (r *Result) holds(f history.Fault, ok bool, want string, args ...any) {
	if !ok {
		r.void("fault %s of %v had no effect: %s", f.Name, f.Servers, fmt.Sprintf(want, args...))
	}
}

// leaderLost is what the faults have in common that strike the leader.
func (r *Result) leaderLost(f history.Fault, im Impact) {
	s := f.Servers[0]
	r.holds(f, f.Leader == s, "the leader was %q", f.Leader)
	r.holds(f, f.Elected != "" && f.Elected != s && f.ElectedAt >= f.Begin && f.ElectedAt <= f.Heal,
		"the others did not elect one of them while it lasted (leader %q at %v)", f.Elected, f.ElectedAt)
	r.holds(f, im.Answered == 0, "%s answered %d changes and linearizable reads that were asked while it was in force", s, im.Answered)
	others := 0
	for server, n := range im.Acknowledged {
		if server != s {
			others += n
		}
	}
	r.holds(f, others > 0, "the other servers acknowledged nothing, so nothing was asked of the majority")
}

func (r *Result) killed(f history.Fault, im Impact) {
	s := f.Servers[0]
	r.leaderLost(f, im)
	r.holds(f, f.During[s].State == "exited", "%s was %q", s, f.During[s].State)
	r.holds(f, f.After[s].State == "running" && f.After[s].PID != f.Before[s].PID && f.After[s].PID != 0,
		"%s is process %d afterwards, and was %d", s, f.After[s].PID, f.Before[s].PID)
}

func (r *Result) paused(f history.Fault, im Impact) {
	s := f.Servers[0]
	r.leaderLost(f, im)
	r.holds(f, f.During[s].State == "paused", "%s was %q", s, f.During[s].State)
	r.holds(f, f.After[s].State == "running" && f.After[s].PID == f.Before[s].PID, "%s is %q afterwards, process %d after %d",
		s, f.After[s].State, f.After[s].PID, f.Before[s].PID)
	r.holds(f, f.Silent && im.LocalReads == 0, "%s answered (a probe: %v, local reads: %d)", s, !f.Silent, im.LocalReads)
}

func (r *Result) partitioned(f history.Fault, im Impact) {
	s := f.Servers[0]
	r.leaderLost(f, im)
	r.holds(f, f.Before[s].Peer != "" && f.During[s].Peer == "" && f.After[s].Peer != "",
		"the address of %s among the servers was %q, %q, %q before, during and after", s, f.Before[s].Peer, f.During[s].Peer, f.After[s].Peer)
	r.holds(f, f.During[s].State == "running" && f.During[s].PID == f.Before[s].PID, "%s was %q, process %d after %d",
		s, f.During[s].State, f.During[s].PID, f.Before[s].PID)
	r.holds(f, im.LocalReads > 0, "no client read at %s while it was cut off", s)
	r.holds(f, im.Turned > 0, "no client asked %s for a change or a linearizable read while it was cut off", s)
}

func (r *Result) readdressed(f history.Fault, im Impact) {
	for _, s := range f.Servers {
		before, after := f.Before[s], f.After[s]
		r.holds(f, after.Peer != "" && after.Peer != before.Peer, "the address of %s is %q and was %q", s, after.Peer, before.Peer)
		r.holds(f, after.State == "running" && after.PID != before.PID, "%s is %q afterwards, process %d after %d",
			s, after.State, after.PID, before.PID)
	}
	r.holds(f, len(f.Servers) > 1, "only one server was restarted, so none had to find another at a new address")
	for s := range f.Before {
		r.holds(f, im.Acknowledged[s] > 0, "%s acknowledged nothing with the new addresses", s)
	}
}
