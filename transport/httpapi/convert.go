package httpapi

import (
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

func nowMS() int64 { return time.Now().UnixMilli() }

// The states of a scope.
const (
	stateOwned    = "owned"
	stateQuiesced = "quiesced"
)

func nodeOf(n fsm.Node) api.Node { return api.Node{ID: string(n.ID), Addr: n.Addr} }

// scopeRecord is the scope as its record has it, without what other records say.
func scopeRecord(sc *scope.Scope, incarnation uint64) api.Scope {
	out := api.Scope{
		Prefix: sc.Prefix.Text(), Writer: string(sc.Writer), Fallback: string(sc.Fallback), Owner: string(sc.Owner),
		Epoch: sc.Epoch, Incarnation: incarnation, Failover: sc.Failover.String(), Lease: sc.Lease.String(),
		Armed: sc.Armed, State: stateOwned, Changed: sc.Changed,
	}
	if sc.Quiesced != "" {
		out.State, out.Target = stateQuiesced, string(sc.Quiesced)
	}
	return out
}

// scopeOf is the scope with its owner's address, move and cleanups.
func scopeOf(st fsm.State, sc *scope.Scope) api.Scope {
	out := scopeRecord(sc, st.Cluster().Incarnation)
	out.OwnerAddr = st.Addr(sc.Owner)
	if m, ok := st.Moves().LookupMigrating(sc.Prefix); ok {
		out.Move = m.ID
	}
	for c := range st.CleanupsOver(sc.Prefix) {
		out.Cleanups = append(out.Cleanups, cleanupOf(c))
	}
	return out
}

func cleanupOf(c fsm.Cleanup) api.Cleanup {
	return api.Cleanup{Node: string(c.Node), Prefix: c.Prefix.Text(), Epoch: c.Epoch, Move: c.Move}
}

func tombstoneOf(t fsm.Tombstone) api.Tombstone {
	return api.Tombstone{Prefix: t.Prefix.Text(), Owner: string(t.Owner), Epoch: t.Epoch, Retired: t.RetiredIndex}
}

// routeOf is the verdict for key. Without a node that asks there is none.
func routeOf(st fsm.State, key []byte, as scope.NodeID) api.Route {
	r := st.Route(key, as)
	out := api.Route{Key: scope.BytesText(string(key)), Index: st.Index()}
	if as != "" {
		out.Verdict = r.Verdict.String()
		out.Reply = replyLine(st, r)
	}
	sc := r.Scope
	if sc == nil {
		return out
	}
	out.Prefix, out.Owner, out.Epoch, out.State = sc.Prefix.Text(), string(sc.Owner), sc.Epoch, stateOwned
	out.Addr = st.Addr(sc.Owner)
	if sc.Quiesced != "" {
		out.State, out.Target, out.Addr = stateQuiesced, string(sc.Quiesced), st.Addr(sc.Quiesced)
	}
	return out
}

// replyLine is what a store answers its client. Clients parse it byte for byte.
func replyLine(st fsm.State, r scope.Routing) string {
	switch r.Verdict {
	case scope.Owned:
		return "OK"
	case scope.Misdirected:
		return "MISDIRECTED writer is " + st.Addr(r.Target())
	case scope.Quiesced:
		return "QUIESCED migrating to " + st.Addr(r.Target())
	case scope.Unknown:
	}
	return "UNKNOWN"
}

func manifestOf(m *migration.Manifest) *api.Manifest {
	if m == nil {
		return nil
	}
	return &api.Manifest{Keys: m.Keys, Bytes: m.Bytes, Digest: m.Digest}
}

// moveRecord is the move as its record has it.
func moveRecord(m migration.Move, now int64) api.Move {
	out := api.Move{
		ID: m.ID, Prefix: m.Prefix.Text(), From: string(m.From), To: string(m.To), Phase: m.Phase.String(),
		Mode: m.Mode.String(), PreCopy: m.PreCopy, Epoch: m.Epoch, NewEpoch: m.NewEpoch,
		WindowMS: uint64(m.Window.Milliseconds()), TimeoutMS: uint64(m.Timeout.Milliseconds()),
		Actor: m.Actor, Reason: m.Reason, Shipped: manifestOf(m.Shipped), Ready: manifestOf(m.Ready),
		Stamps: make([]api.Stamp, 0, len(m.Stamps)), Cause: m.Cause, Detail: m.Detail, QuiescedMS: m.QuiescedMS(now),
	}
	for _, s := range m.Stamps {
		out.Stamps = append(out.Stamps, api.Stamp{Phase: s.Phase.String(), Index: s.Index, TimeMS: s.TimeMS})
	}
	return out
}

// moveOf is the move with its cleanup, and for one that has something left to
// do, whom it waits for and what may be done about it.
func moveOf(st fsm.State, m migration.Move, now int64) api.Move {
	out := moveRecord(m, now)
	for c := range st.CleanupsOver(m.Prefix) {
		if c.Move == m.ID {
			out.Cleanup = "pending"
		}
	}
	out.WaitingFor, out.SafeNow = waiting(m, out.Cleanup != "")
	return out
}

func planOf(index uint64, p fsm.Plan) *api.Plan {
	out := &api.Plan{Index: index, Changes: make([]api.PlanChange, 0, len(p.Changes)), Kept: p.Kept}
	for _, c := range p.Changes {
		out.Changes = append(out.Changes, api.PlanChange{Op: c.Op, Kind: c.Kind, Name: c.Name, Before: c.Before, After: c.After})
	}
	return out
}

// cleanedOf is the command that ends the cleanup which a move left at its
// source. The epoch keeps it from ending that of a later move.
func cleanedOf(m migration.Move, reason string) *fsm.Cleaned {
	return &fsm.Cleaned{Node: string(m.From), Prefix: m.Prefix.Bytes(), Epoch: m.Epoch, Reason: reason}
}

// changeOf is one change of a watch item: the record, without what other
// records say of it, which a watcher has got itself.
func changeOf(e fsm.Event, incarnation uint64, now int64) api.Change {
	out := api.Change{Cause: e.Cause, Op: "put"}
	if e.Deleted {
		out.Op = "delete"
	}
	switch {
	case e.Node != nil:
		n := nodeOf(*e.Node)
		out.Node = &n
	case e.Scope != nil:
		sc := scopeRecord(e.Scope, incarnation)
		out.Scope = &sc
	case e.Move != nil:
		m := moveRecord(*e.Move, now)
		out.Move = &m
	case e.Cleanup != nil:
		c := cleanupOf(*e.Cleanup)
		out.Cleanup = &c
	case e.Tombstone != nil:
		t := tombstoneOf(*e.Tombstone)
		out.Tombstone = &t
	}
	return out
}
