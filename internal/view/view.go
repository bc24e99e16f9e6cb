// Package view shows a state in the words of internal/api, the same on every
// front end: records, verdicts, and what an unfinished move waits for. It is
// pure: time comes in as an argument.
package view

import (
	"iter"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// The states of a scope.
const (
	Owned    = "owned"    // its owner may write
	Quiesced = "quiesced" // nobody may, a move holds it closed
	Held     = "held"     // nobody may, the cluster holds since a restore
)

// clusterRecord is the record of the cluster itself.
func clusterRecord(c fsm.Cluster) api.ClusterRecord {
	return api.ClusterRecord{ID: c.ID, Incarnation: c.Incarnation, Tag: c.Tag, Hold: c.Hold, Ended: c.Ended}
}

// Node is a declared node.
func Node(n fsm.Node) api.Node { return api.Node{ID: string(n.ID), Addr: n.Addr} }

// NodeState is a declared node with its session.
func NodeState(n fsm.Node) api.NodeState {
	out := api.NodeState{Node: Node(n), Identity: n.Identity, Expired: n.Expired, Fenced: n.Fenced, Incarnation: n.Incarnation, Tag: n.Tag}
	if n.Live() {
		out.Session = &api.Session{ID: n.Session.ID, Opened: n.Session.Opened, View: n.Session.View}
	}
	return out
}

// scopeRecord is the scope as its record has it, without what other records say:
// whether it is held is in that of the cluster.
func scopeRecord(sc *scope.Scope, incarnation uint64) api.Scope {
	out := api.Scope{
		Prefix: sc.Prefix.Text(), Writer: string(sc.Writer), Fallback: string(sc.Fallback), Owner: string(sc.Owner),
		Epoch: sc.Epoch, Incarnation: incarnation, Failover: sc.Failover.String(), Lease: sc.Lease.String(),
		Armed: sc.Armed, Released: sc.Released, State: Owned, Changed: sc.Changed,
	}
	if sc.Quiesced != "" {
		out.State, out.Target = Quiesced, string(sc.Quiesced)
	}
	return out
}

// Scope is the scope with its owner's address, running move and cleanups.
func Scope(st fsm.State, sc *scope.Scope) api.Scope {
	out := scopeRecord(sc, st.Cluster().Incarnation)
	out.OwnerAddr = st.Addr(sc.Owner)
	if st.Held(sc) {
		out.State = Held
	}
	if m, ok := st.Moves().LookupMigrating(sc.Prefix); ok {
		out.Move = m.ID
	}
	for c := range st.CleanupsOver(sc.Prefix) {
		out.Cleanups = append(out.Cleanups, cleanup(c))
	}
	return out
}

func cleanup(c fsm.Cleanup) api.Cleanup {
	return api.Cleanup{Node: string(c.Node), Prefix: c.Prefix.Text(), Epoch: c.Epoch, Move: c.Move}
}

func tombstone(t fsm.Tombstone) api.Tombstone {
	return api.Tombstone{Prefix: t.Prefix.Text(), Owner: string(t.Owner), Epoch: t.Epoch, Retired: t.RetiredIndex}
}

// Plan is what a dry run found, in a state with this index.
func Plan(index uint64, p fsm.Plan) *api.Plan {
	out := &api.Plan{Index: index, Changes: make([]api.PlanChange, 0, len(p.Changes)), Kept: p.Kept}
	for _, c := range p.Changes {
		out.Changes = append(out.Changes, api.PlanChange{Op: c.Op, Kind: c.Kind, Name: c.Name, Before: c.Before, After: c.After})
	}
	return out
}

// Applied is the answer to a mutation.
func Applied(r *fsm.Result) api.Applied {
	return api.Applied{Index: r.Index, Epoch: r.Epoch, Move: r.Move, Changed: r.Changed, Warnings: r.Warnings}
}

// Item is one item of a watch, of the cluster's incarnation c. nowMS is the wall
// clock, for the time a scope has been closed.
func Item(it fsm.Item, c fsm.Cluster, nowMS int64) api.WatchItem {
	out := Head("change", it.Index, c)
	out.Changes = make([]api.Change, 0, len(it.Events))
	for _, e := range it.Events {
		if e.Token != nil {
			continue // for the servers alone
		}
		out.Changes = append(out.Changes, Change(e, c.Incarnation, nowMS))
	}
	return out
}

// Head is an item of a watch without changes. It names the incarnation: an index
// says nothing about another history of the cluster.
func Head(kind string, index uint64, c fsm.Cluster) api.WatchItem {
	return api.WatchItem{Type: kind, Index: index, Incarnation: c.Incarnation, Tag: c.Tag}
}

// Change is one change of a watch item: the record, without what other records
// say of it, which a watcher has got itself.
func Change(e fsm.Event, incarnation uint64, nowMS int64) api.Change {
	out := api.Change{Cause: e.Cause, Op: "put"}
	if e.Deleted {
		out.Op = "delete"
	}
	switch {
	case e.Cluster != nil:
		c := clusterRecord(*e.Cluster)
		out.Cluster = &c
	case e.Node != nil:
		n := NodeState(*e.Node)
		out.Node = &n
	case e.Scope != nil:
		sc := scopeRecord(e.Scope, incarnation)
		out.Scope = &sc
	case e.Move != nil:
		m := moveRecord(*e.Move, nowMS)
		out.Move = &m
	case e.Cleanup != nil:
		c := cleanup(*e.Cleanup)
		out.Cleanup = &c
	case e.Tombstone != nil:
		t := tombstone(*e.Tombstone)
		out.Tombstone = &t
	}
	return out
}

// Records yields everything a watcher needs to know, as events that put it. The
// record of the cluster is the first, as views of two incarnations cannot be
// compared. Of the finished moves those are in it, after the running ones and the
// oldest first, that began the present tenure of a scope: by them a target that
// was down at the flip learns that what it had sealed is to be served. So are
// those of which the target has the scope again without a move: it must not take
// the slice, which may be the only copy, for that of a move that was aborted.
func Records(st fsm.State) iter.Seq[fsm.Event] {
	const everything = scope.Prefix("")
	return func(yield func(fsm.Event) bool) {
		_ = each(one(st.Cluster()), yield, func(c fsm.Cluster) fsm.Event { return fsm.Event{Cluster: &c} }) &&
			each(st.Nodes(), yield, func(n fsm.Node) fsm.Event { return fsm.Event{Node: &n} }) &&
			each(st.Scopes().Scopes(), yield, func(sc *scope.Scope) fsm.Event { return fsm.Event{Scope: sc} }) &&
			each(st.Moves().Running(), yield, func(m migration.Move) fsm.Event { return fsm.Event{Move: &m} }) &&
			each(tenures(st), yield, func(m migration.Move) fsm.Event { return fsm.Event{Move: &m} }) &&
			each(st.CleanupsOver(everything), yield, func(c fsm.Cleanup) fsm.Event { return fsm.Event{Cleanup: &c} }) &&
			each(st.TombstonesOver(everything), yield, func(t fsm.Tombstone) fsm.Event { return fsm.Event{Tombstone: &t} })
	}
}

func one[T any](v T) iter.Seq[T] {
	return func(yield func(T) bool) { yield(v) }
}

// tenures yields the finished moves that began the present tenure of a scope, or
// an earlier one of the same node after which no other move is known. The moves are
// looked through and not the scopes: there are far fewer of them.
func tenures(st fsm.State) iter.Seq[migration.Move] {
	return func(yield func(migration.Move) bool) {
		for m := range st.Moves().FinishedOldest() {
			sc, ok := st.Scopes().Get(m.Prefix)
			if ok && (m.NewEpoch == sc.Epoch || again(st, sc, m)) && !yield(m) { // an aborted one has no new epoch
				return
			}
		}
	}
}

// again reports whether the target of a move by agents, the last that flipped the
// scope, has it now as its own under another epoch: retired and declared anew.
func again(st fsm.State, sc *scope.Scope, m migration.Move) bool {
	if m.Phase != migration.Done || m.Mode != migration.Agent || sc.Owner != m.To || sc.Writer != m.To {
		return false
	}
	last, _ := st.Moves().LookupMigrated(m.Prefix)
	return last.ID == m.ID
}

// each yields every record of one kind; false once the reader wants no more.
func each[T any](records iter.Seq[T], yield func(fsm.Event) bool, event func(T) fsm.Event) bool {
	for r := range records {
		e := event(r)
		e.Cause = "snapshot"
		if !yield(e) {
			return false
		}
	}
	return true
}
