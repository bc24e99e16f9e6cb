package check

import (
	"maps"
	"slices"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// Watches makes sure that the indexes of each server's watch rise, that all
// servers tell the same changes without a gap, and that a snapshot taken over
// in between agrees with the changes.
func Watches(run *history.Run, t told) Result {
	r := Result{Name: "watch", Unit: "items"}
	last := map[string]uint64{}
	for _, s := range run.Seen {
		if s.Resync {
			continue
		}
		r.Checked++
		floor := last[s.Server]
		switch {
		case s.Item.Type == "change" && s.Item.Index <= floor, s.Item.Index < floor:
			r.violated("the watch of %s sent %s %d after index %d", s.Server, s.Item.Type, s.Item.Index, floor)
		case s.Item.Type == "snapshot":
			for _, c := range s.Item.Changes {
				if c.Scope != nil && !sameScope(c.Scope, t.at(c.Scope.Prefix, s.Item.Index).scope) {
					r.violated("the snapshot of %s at %d has scope %s otherwise than the changes up to there", s.Server, s.Item.Index, c.Scope.Prefix)
				}
			}
		}
		last[s.Server] = max(floor, s.Item.Index)
	}
	r.sameEverywhere(run, t)
	for _, s := range run.Samples {
		for _, server := range run.Setup.Servers {
			if s.Final && last[server] < s.Cluster.Index {
				r.violated("the watch of %s ended at index %d, before the last one, %d", server, last[server], s.Cluster.Index)
			}
		}
	}
	return r
}

// sameEverywhere compares what the servers told of each index.
func (r *Result) sameEverywhere(run *history.Run, t told) {
	for _, index := range slices.Sorted(maps.Keys(t.changes)) {
		first, text := "", ""
		for _, server := range run.Setup.Servers {
			got, ok := t.text[server][index]
			switch {
			case !ok && t.covers(server, index):
				r.violated("the watch of %s has a gap: nothing at index %d", server, index)
			case !ok:
			case first == "":
				first, text = server, got
			case got != text:
				r.violated("index %d is %.300s in the watch of %s and %.300s in that of %s", index, text, first, got, server)
			}
		}
	}
}

func sameScope(a, b *api.Scope) bool {
	return b != nil && a.Writer == b.Writer && a.Fallback == b.Fallback && a.Owner == b.Owner && a.Epoch == b.Epoch &&
		a.State == b.State && a.Target == b.Target && a.Changed == b.Changed
}

// Acknowledged looks up every acknowledged change in what the watches told: at
// the index of the reply the change must be there, as the client asked for it.
func Acknowledged(run *history.Run, t told) Result {
	r := Result{Name: "acknowledged", Unit: "acknowledged changes"}
	cleaned := map[string]bool{}
	for _, changes := range t.changes {
		for _, c := range changes {
			if c.Cleanup != nil && c.Op == "delete" {
				cleaned[c.Cleanup.Move] = true
			}
		}
	}
	r.forgotten(run)
	for i := range run.Ops {
		op := &run.Ops[i]
		if op.Outcome != history.OK || !op.Kind.Mutates() || op.Kind == history.Declare && !op.Got.Changed {
			continue
		}
		r.Checked++
		switch {
		case op.Kind == history.Cleaned:
			if !cleaned[op.Arg.Move] {
				r.violated("%s was acknowledged, and no watch tells of it", named(op))
			}
		case !slices.ContainsFunc(t.changes[op.Got.Index], func(c api.Change) bool { return tells(c, op) }):
			r.violated("%s was acknowledged at index %d and is lost: no watch tells of it there", named(op), op.Got.Index)
		}
	}
	return r
}

// forgotten finds moves whose start was acknowledged, and which are not known
// to a later step.
func (r *Result) forgotten(run *history.Run) {
	started := map[string]*history.Op{}
	for i := range run.Ops {
		op := &run.Ops[i]
		switch first := started[op.Arg.Move]; {
		case op.Kind == history.Start && op.Outcome == history.OK:
			started[op.Arg.Move] = op
		case first != nil && op.Kind != history.Cleaned && op.Code == api.NotFound && op.Call > first.Return:
			r.violated("%s does not know the move that was started by %s", named(op), named(first))
		}
	}
}

// tells reports whether a change is that of an operation.
func tells(c api.Change, op *history.Op) bool {
	if sc := c.Scope; sc != nil && sc.Prefix == op.Prefix {
		switch op.Kind {
		case history.Declare:
			return c.Op == "put" && sc.Writer == op.Arg.Writer && sc.Fallback == op.Arg.Fallback && sc.Epoch == op.Got.Epoch
		case history.Retire:
			return c.Op == "delete"
		case history.Ready:
			return c.Op == "put" && sc.Owner == op.Arg.To && sc.Epoch == op.Got.Epoch
		default:
			return false
		}
	}
	if c.Move == nil || c.Move.ID != op.Arg.Move {
		return false
	}
	switch op.Kind {
	case history.Start:
		return c.Move.Phase == string(copying) || c.Move.Phase == string(quiescing)
	case history.Quiesce:
		return c.Move.Phase == string(quiescing)
	case history.Shipped:
		return c.Move.Phase == string(shipped)
	case history.Abort:
		return c.Move.Phase == "aborted"
	default:
		return false
	}
}

// Views compares every read, old or fresh, with what the watches say the scope
// was at the index of the reply.
func Views(run *history.Run, t told) Result {
	r := Result{Name: "views", Unit: "reads"}
	for i := range run.Ops {
		op := &run.Ops[i]
		if op.Kind.Mutates() || !spoke(op) {
			continue
		}
		r.Checked++
		if was := t.at(op.Prefix, op.Got.Seen); !was.shows(op.Got.Scope) {
			r.violated("%s shows %+v at index %d, where the watches say %+v", named(op), op.Got.Scope, op.Got.Seen, was)
		}
	}
	return r
}
