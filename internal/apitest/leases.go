package apitest

import (
	"context"
	"fmt"
	"math"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// What the leader says of every lease and report: it has no clock.
const (
	LeaseLeftMS = 9000
	BytesPerSec = 1 << 20
)

// Leases are those of every cluster.
func (m *Memory) Leases() api.Leases { return api.DefaultLeases() }

// Renew notes the view of a live session. The error is Down, INVALID for a view
// that is not in the log, SESSION_EXPIRED, or FORBIDDEN for another node.
func (m *Memory) Renew(_ context.Context, r api.Renewal) (api.Renewed, error) {
	st := m.State()
	if err := m.live(st, r.Session, r.As); err != nil {
		return api.Renewed{}, err
	}
	if r.View > st.Index() {
		return api.Renewed{}, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("a view cannot have reached index %d, as the log is at %d", r.View, st.Index())}
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.Views[r.Session] = max(m.Views[r.Session], r.View)
	return api.Renewed{Index: st.Index(), LeaseMS: m.Leases().Lease.Milliseconds()}, nil
}

func (m *Memory) live(st fsm.State, session, as string) error {
	if m.Down != nil {
		return m.Down
	}
	switch n, ok := st.Holder(session); {
	case !ok:
		return &api.Error{Code: api.SessionExpired, Index: st.Index(), Detail: fmt.Sprintf("session %q is not live; open a new one", session)}
	case as != "" && as != string(n.ID):
		return &api.Error{Code: api.Forbidden, Detail: fmt.Sprintf("node %q may speak for its own session only, and this one is of node %q", as, n.ID)}
	}
	return nil
}

// Report keeps the newest report of a running move. The error is Down,
// SESSION_EXPIRED, FORBIDDEN for another node, NOT_FOUND or WRONG_PHASE.
func (m *Memory) Report(_ context.Context, r api.Report) error {
	st := m.State()
	if err := m.live(st, r.Session, r.As); err != nil {
		return err
	}
	switch move, ok := st.Moves().Get(r.Move); {
	case !ok:
		return &api.Error{Code: api.NotFound, Detail: fmt.Sprintf("there is no move %q; list them", r.Move)}
	case !move.Running():
		return &api.Error{Code: api.WrongPhase, Move: r.Move, Detail: fmt.Sprintf("move %s is %s; there is nothing left to report", r.Move, move.Phase)}
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.Reports[r.Move] = r
	return nil
}

// Leading is what s1 counts. The error is Down, or that of a context that ends
// while Deaf holds it.
func (m *Memory) Leading(ctx context.Context) (api.Leading, error) {
	m.Mu.Lock()
	deaf := m.Deaf
	m.Mu.Unlock()
	if deaf != nil {
		select {
		case <-deaf:
		case <-ctx.Done():
			return api.Leading{}, &api.Error{Code: api.Timeout, Detail: "the leader did not answer in time; try again"}
		}
	}
	if m.Down != nil {
		return api.Leading{}, m.Down
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	out := api.Leading{Leader: "s1", Leases: []api.LeaseState{}, Progress: map[string]api.Progress{}}
	for node, s := range m.State().Sessions() {
		out.Leases = append(out.Leases, api.LeaseState{Session: s.ID, Node: string(node), View: m.Views[s.ID], LeftMS: LeaseLeftMS})
	}
	for id, r := range m.Reports {
		left := int64(math.Ceil(float64(r.BytesLeft) / BytesPerSec * 1000))
		out.Progress[id] = api.Progress{Keys: r.Keys, Bytes: r.Bytes, KeysLeft: r.KeysLeft, BytesLeft: r.BytesLeft, BytesPerSec: BytesPerSec, LeftMS: left}
	}
	return out, nil
}
