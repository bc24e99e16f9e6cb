package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Everything in this file stands in for the leases of this server until they
// are merged, and goes then: no renewal is confirmed and nothing expires.

// pending are the reports of moves, by server and move.
var pending sync.Map

type pendingKey struct {
	r    *Registry
	move string
}

// Leases are the times of every cluster.
func (r *Registry) Leases() api.Leases { return api.DefaultLeases() }

// Renew answers every live session.
func (r *Registry) Renew(_ context.Context, n api.Renewal) (api.Renewed, error) {
	st := r.State()
	if _, ok := st.Holder(n.Session); !ok {
		return api.Renewed{}, &api.Error{Code: api.SessionExpired, Index: st.Index(),
			Detail: fmt.Sprintf("session %q is not live; nothing that it says counts any more, open a new one", n.Session)}
	}
	return api.Renewed{Index: st.Index(), LeaseMS: r.Leases().Lease.Milliseconds()}, nil
}

// Report keeps the newest report of a running move.
func (r *Registry) Report(_ context.Context, n api.Report) error {
	st := r.State()
	if h, ok := st.Holder(n.Session); !ok {
		return &api.Error{Code: api.SessionExpired, Index: st.Index(), Detail: fmt.Sprintf("session %q is not live; open a new one", n.Session)}
	} else if m, ok := st.Moves().Get(n.Move); !ok || !m.Running() || m.From != h.ID {
		return &api.Error{Code: api.WrongPhase, Move: n.Move, Index: st.Index(),
			Detail: fmt.Sprintf("move %q is not running from node %q, so that there is no progress to report", n.Move, h.ID)}
	}
	pending.Store(pendingKey{r, n.Move}, n)
	return nil
}

// Leading has the sessions and reports of this server.
func (r *Registry) Leading(context.Context) (api.Leading, error) {
	out := api.Leading{Leases: []api.LeaseState{}, Progress: map[string]api.Progress{}}
	id, _, known := r.Leader()
	if !known {
		return out, &api.Error{Code: api.NoLeader, Detail: "no leader is known; try again"}
	}
	out.Leader = id
	for node, s := range r.State().Sessions() {
		out.Leases = append(out.Leases, api.LeaseState{Session: s.ID, Node: string(node), View: s.View, LeftMS: (9 * time.Second).Milliseconds()})
	}
	for m := range r.State().Moves().Running() {
		if v, ok := pending.Load(pendingKey{r, m.ID}); ok {
			n, _ := v.(api.Report)
			out.Progress[m.ID] = api.Progress{Keys: n.Keys, Bytes: n.Bytes, KeysLeft: n.KeysLeft, BytesLeft: n.BytesLeft, BytesPerSec: 1 << 20, LeftMS: 2000}
		}
	}
	return out, nil
}
