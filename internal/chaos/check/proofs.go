package check

import (
	"maps"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// proof voids the run unless a fault was in one respect what its name says.
type proof func(*Result, history.Fault, Impact)

// proofs are what shows each fault. Those about what clients noticed are left out
// of faults that others were done with.
var proofs = map[string][]proof{
	history.Kill:          {(*Result).exited, (*Result).leaderLost},
	history.KillFollower:  {(*Result).exited, (*Result).servedOn},
	history.KillMajority:  {(*Result).exited, (*Result).nobodyServed},
	history.KillAll:       {(*Result).exited, (*Result).nobodyServed},
	history.Rolling:       {(*Result).exited, (*Result).everyServer, (*Result).servedOn},
	history.Pause:         {(*Result).stoodStill, (*Result).silent, (*Result).leaderLost},
	history.PauseFollower: {(*Result).stoodStill, (*Result).silent, (*Result).servedOn},
	history.Partition:     {(*Result).cutOff, (*Result).leaderLost, (*Result).askedThere},
	history.CutFollower:   {(*Result).cutOff, (*Result).servedOn, (*Result).askedThere},
	history.DeafLeader:    {(*Result).carriedNothing, (*Result).leaderLost, (*Result).askedThere},
	history.MuteLeader:    {(*Result).carriedNothing, (*Result).leaderLost, (*Result).askedThere},
	history.SlowLeader:    {(*Result).slow},
	history.SlowAll:       {(*Result).slow},
	history.HalfOpen:      {(*Result).carriedNothing, (*Result).exited, (*Result).leaderLost},
	history.Transfer:      {(*Result).transferred, (*Result).servedOn},
	history.Readdress:     {(*Result).readdressed},
	history.Wipe:          {(*Result).said, (*Result).silent, (*Result).servedOn},
	history.FlipLog:       {(*Result).said, (*Result).stopped, (*Result).servedOn},
	history.FlipSnapshot:  {(*Result).said, (*Result).servedOn},
	history.LossyAll:      {(*Result).lossy},
	history.SlowDisk:      {(*Result).slowed},
	history.FailingDisk:   {(*Result).exited, (*Result).leaderLost},
	history.FullDisk:      {(*Result).limited},
	history.Members:       {(*Result).grew, (*Result).servedOn},
	history.KillOwner:     {(*Result).exited, (*Result).wroteNothing},
	history.KillTarget:    {(*Result).exited, (*Result).wroteNothing},
	history.KillNodes:     {(*Result).exited, (*Result).everyNode, (*Result).wroteNothing},
	history.PauseOwner:    {(*Result).stoodStill, (*Result).wroteNothing},
	history.CutOwner:      {(*Result).cutOff, (*Result).wroteOn},
}

// holds voids the run unless what must be true of a fault is.
func (r *Result) holds(f history.Fault, ok bool, want string, args ...any) {
	if !ok {
		r.void("fault %s of %v had no effect: "+want, append([]any{f.Name, f.Servers}, args...)...)
	}
}

// leaderLost is what the faults have in common that strike the leader.
func (r *Result) leaderLost(f history.Fault, im Impact) {
	if f.Together {
		return
	}
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

// servedOn is that a majority went on.
func (r *Result) servedOn(f history.Fault, im Impact) {
	all := 0
	for _, n := range im.Acknowledged {
		all += n
	}
	r.holds(f, f.Together || all > 0, "nobody acknowledged anything, so nothing was asked while it lasted")
}

// nobodyServed is that there was no majority, and that clients asked all the same.
func (r *Result) nobodyServed(f history.Fault, im Impact) {
	r.holds(f, f.Together || len(im.Acknowledged) == 0, "changes were acknowledged without a majority: %v", im.Acknowledged)
	r.holds(f, f.Together || im.Turned > 0, "no client asked any of the servers that were struck")
}

// exited is that processes had ended, and others run afterwards.
func (r *Result) exited(f history.Fault, _ Impact) {
	for _, s := range f.Servers {
		r.holds(f, f.During[s].State == "exited", "%s was %q", s, f.During[s].State)
		r.holds(f, f.After[s].State == "running" && f.After[s].PID != f.Before[s].PID && f.After[s].PID != 0,
			"%s is process %d afterwards, and was %d", s, f.After[s].PID, f.Before[s].PID)
	}
}

// stoodStill is that a process was paused, and is the same one afterwards.
func (r *Result) stoodStill(f history.Fault, _ Impact) {
	s := f.Servers[0]
	r.holds(f, f.During[s].State == "paused", "%s was %q", s, f.During[s].State)
	r.holds(f, f.Together || f.After[s].State == "running" && f.After[s].PID == f.Before[s].PID, "%s is %q afterwards, process %d after %d",
		s, f.After[s].State, f.After[s].PID, f.Before[s].PID)
}

// silent is that a server answered nothing.
func (r *Result) silent(f history.Fault, im Impact) {
	r.holds(f, f.Silent && im.LocalReads == 0, "%s answered (a probe: %v, local reads: %d)", f.Servers[0], !f.Silent, im.LocalReads)
}

// stopped is that a server did not stay up.
func (r *Result) stopped(f history.Fault, _ Impact) {
	s := f.Servers[0]
	r.holds(f, f.During[s].State == "exited", "%s was %q", s, f.During[s].State)
}

// cutOff is that a server that runs reached no other.
func (r *Result) cutOff(f history.Fault, im Impact) {
	s := f.Servers[0]
	r.holds(f, f.Before[s].Peer != "" && f.During[s].Peer == "" && f.After[s].Peer != "",
		"the address of %s among the servers was %q, %q, %q before, during and after", s, f.Before[s].Peer, f.During[s].Peer, f.After[s].Peer)
	r.holds(f, f.Together || f.During[s].State == "running" && f.During[s].PID == f.Before[s].PID, "%s was %q, process %d after %d",
		s, f.During[s].State, f.During[s].PID, f.Before[s].PID)
	if len(f.Ways) > 0 {
		r.carriedNothing(f, im)
	}
}

// askedThere is that clients noticed that a server was cut off: it answered what it may, and nothing else.
func (r *Result) askedThere(f history.Fault, im Impact) {
	s := f.Servers[0]
	r.holds(f, f.Together || im.LocalReads > 0, "no client read at %s while it was cut off", s)
	r.holds(f, f.Together || im.Turned > 0, "no client asked %s for a change or a linearizable read while it was cut off", s)
	r.holds(f, f.Together || im.Answered == 0, "%s answered %d changes and linearizable reads while it was cut off", s, im.Answered)
}

// carriedNothing is that what was cut carried nothing.
func (r *Result) carriedNothing(f history.Fault, _ Impact) {
	r.holds(f, len(f.Ways) > 0, "no link was looked at")
	for _, w := range f.Ways {
		r.holds(f, w.Heal == w.Active, "%s reached %s: %d bytes passed", w.From, w.To, w.Heal-w.Active)
	}
}

// slow is that links carried, and took their time. Nothing may be acknowledged then: a leader that hears of the others
// later than it may do without them does not stay one. What other faults cut at the same time carries nothing: then one
// link that took its time is enough.
func (r *Result) slow(f history.Fault, im Impact) {
	if f.Together {
		r.lossy(f, im)
		return
	}
	r.holds(f, len(f.Ways) > 0, "no link was looked at")
	for _, w := range f.Ways {
		if f.Together && w.Heal == w.Active {
			continue // another fault has ended or cut off one of them
		}
		r.holds(f, w.DelayMS > 0 && w.SlowestMS >= w.DelayMS, "from %s to %s nothing took longer than %d ms, %d were to be waited", w.From, w.To, w.SlowestMS, w.DelayMS)
		r.holds(f, w.Heal > w.Active, "nothing passed from %s to %s", w.From, w.To)
	}
}

// lossy is that something came late: between servers that do not lead there is too little for something to be lost each time.
func (r *Result) lossy(f history.Fault, _ Impact) {
	late := slices.ContainsFunc(f.Ways, func(w history.Way) bool { return w.DelayMS > 0 && w.SlowestMS >= w.DelayMS && w.Heal > w.Active })
	r.holds(f, late, "nothing came late between its servers")
}

// slowed is that changes went on, and took their time.
func (r *Result) slowed(f history.Fault, im Impact) {
	r.servedOn(f, im)
	r.holds(f, f.Together || im.SlowestMS >= leastSlow, "no change took longer than %d ms", im.SlowestMS)
}

// leastSlow is what a change takes at least whose leader's disk is slow.
const leastSlow = 50

// limited is that changes were refused for want of space, and reads were not.
func (r *Result) limited(f history.Fault, im Impact) {
	r.holds(f, f.Together || im.Limited > 0, "no change was refused with LIMIT")
	r.holds(f, f.Together || im.Reads > 0, "no linearizable read was answered")
}

func (r *Result) transferred(f history.Fault, _ Impact) {
	r.holds(f, f.Together || f.Elected == f.Servers[0] && f.Elected != f.Leader, "%q leads, and %q did", f.Elected, f.Leader)
}

// said is that a server said what was wrong.
func (r *Result) said(f history.Fault, _ Impact) {
	r.holds(f, f.Said != "", "%s said nothing about its data", f.Servers[0])
}

func (r *Result) grew(f history.Fault, _ Impact) {
	before := 0
	for _, m := range f.Before {
		if !m.Node {
			before++
		}
	}
	r.holds(f, f.Voters > before, "at most %d servers voted, and %d did before", f.Voters, before)
}

// everyServer and everyNode are that none was left out.
func (r *Result) everyServer(f history.Fault, _ Impact) { r.every(f, true) }

func (r *Result) everyNode(f history.Fault, _ Impact) { r.every(f, false) }

func (r *Result) every(f history.Fault, servers bool) {
	for _, id := range slices.Sorted(maps.Keys(f.Before)) {
		if f.Before[id].Node != servers {
			r.holds(f, slices.Contains(f.Servers, id), "%s was left out", id)
		}
	}
}

// wroteNothing is that nodes that are gone, or stand still, accepted nothing.
func (r *Result) wroteNothing(f history.Fault, im Impact) {
	r.holds(f, im.Written == 0, "%v accepted %d writes while it was in force", f.Servers, im.Written)
	r.holds(f, f.Together || im.Tried > 0, "no client wrote to %v while it was in force", f.Servers)
}

// wroteOn is that clients reached a node that was cut off from the servers.
func (r *Result) wroteOn(f history.Fault, im Impact) {
	r.holds(f, f.Together || im.Tried > 0, "no client wrote to %v while it was in force", f.Servers)
}

// written counts the writes at struck nodes that began and ended while a fault was in force, and those that were tried.
func written(run *history.Run, f history.Fault) (accepted, tried int) {
	within := func(from, to int64) bool { return run.Setup.Wall(from) >= f.Active && run.Setup.Wall(to) <= f.Heal }
	for i := range run.Writes {
		op := &run.Writes[i]
		if !slices.Contains(f.Servers, op.Node) {
			continue
		}
		if at := run.Setup.Wall(op.Call); at >= f.Active && at <= f.Heal {
			tried++
		}
		if op.Outcome == writes.Acknowledged && within(op.Began, op.Ended) {
			accepted++
		}
	}
	return accepted, tried
}

// silentWrites is the longest time from the begin of a fault on in which no write of one scope of the data nodes was
// acknowledged, if it began before all was whole again.
func silentWrites(run *history.Run, f history.Fault) time.Duration {
	last := map[string]time.Duration{}
	longest := time.Duration(0)
	for i := range run.Writes {
		op := &run.Writes[i]
		if op.Outcome != writes.Acknowledged {
			continue
		}
		at, before := run.Setup.Wall(op.Return), f.Begin
		if l, ok := last[op.Scope]; ok {
			before = max(l, f.Begin)
		}
		if at > f.Begin && before < f.End {
			longest = max(longest, at-before)
		}
		last[op.Scope] = max(last[op.Scope], at)
	}
	for _, at := range last { // a scope that took no write any more
		longest = max(longest, f.End-max(at, f.Begin))
	}
	return longest
}
