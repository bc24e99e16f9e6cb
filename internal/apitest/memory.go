// Package apitest is what the tests of the front ends share: a registry of one
// server that answers from memory.
package apitest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// EntryMS is the leader's wall clock in all entries, milliseconds since 1970.
const EntryMS = 1_700_000_000_000

// Memory is a registry of one server, s1, that applies every command at once.
// Its status has two more servers: s2, and s3 that cannot be asked.
type Memory struct {
	*fsm.FSM

	Mu      sync.Mutex        // guards all below, for tests that change it while requests run
	Index   uint64            // of the last entry
	Asked   []fsm.Envelope    // of Propose
	Asks    []api.ReadOptions // of Read, but for those without any: they are too many to note
	To      string            // of Transfer
	Hold    chan struct{}     // Propose waits until it is closed, or for its context
	Fail    error             // of Propose and Transfer
	Down    error             // of Read, Ready, Watch and Status; no leader is known then
	Reached uint64            // how far s2 is, at most as far as s1
	made    int               // ids of moves

	// Views and Reports are what nodes said last, by session and by move.
	Views   map[string]uint64
	Reports map[string]api.Report
	Deaf    chan struct{} // Leading waits until it is closed, or for its context
}

// New returns a registry without any state. A fault of the state machine fails t.
func New(t testing.TB) *Memory {
	return &Memory{FSM: fsm.New(func(err error) { t.Errorf("fatal: %v", err) }),
		Views: map[string]uint64{}, Reports: map[string]api.Report{}}
}

// Propose applies a command, which must have a time bound. The error is Fail, an
// *[api.Error] of a refusal, or OUTCOME_UNKNOWN if ctx ends while Hold holds it.
func (m *Memory) Propose(ctx context.Context, e fsm.Envelope) (*fsm.Result, error) {
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("a mutation without a bound")
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.Asked = append(m.Asked, e)
	if hold := m.Hold; hold != nil {
		m.Mu.Unlock()
		select {
		case <-hold:
		case <-ctx.Done():
		}
		m.Mu.Lock()
		if ctx.Err() != nil {
			return nil, &api.Error{Code: api.OutcomeUnknown, Detail: "nobody knows"}
		}
	}
	if m.Fail != nil {
		return nil, m.Fail
	}
	return m.Commit(e)
}

// Commit applies a command, and fills in the id of a move as the registry does.
// Mu is held, or nothing else runs.
func (m *Memory) Commit(e fsm.Envelope) (*fsm.Result, error) {
	m.made++
	id := fmt.Sprintf("mv-%d", m.made)
	if e.RequestID != "" { // a retry must be the same command
		id = "mv-" + e.RequestID
	}
	switch c := e.Command.(type) {
	case *fsm.StartMove:
		if c.Id == "" {
			c.Id = id
		}
	case *fsm.Force:
		if c.Id == "" {
			c.Id = id
		}
	}
	data, err := e.Encode()
	if err != nil {
		return nil, err
	}
	entry, err := fsm.EncodeEntry(EntryMS, [][]byte{data})
	if err != nil {
		return nil, err
	}
	m.Index++
	results, ok := applyLog(m.Apply, m.Index, entry).([]*fsm.Result)
	if !ok || len(results) != 1 {
		return nil, fmt.Errorf("apply gave %v", results)
	}
	return results[0], fsm.ResultError(results[0])
}

// applyLog calls apply with a log entry whose type only the state machine's
// package may import.
func applyLog[L any](apply func(*L) any, index uint64, data []byte) any {
	log := new(L)
	v := reflect.ValueOf(log).Elem()
	v.FieldByName("Index").SetUint(index)
	v.FieldByName("Term").SetUint(1)
	v.FieldByName("Data").SetBytes(data)
	return apply(log)
}

// Read returns the state once it has reached the index that was asked for.
func (m *Memory) Read(ctx context.Context, o api.ReadOptions) (fsm.State, error) {
	if o != (api.ReadOptions{}) {
		m.Mu.Lock()
		m.Asks = append(m.Asks, o)
		m.Mu.Unlock()
		if err := m.WaitIndex(ctx, o.MinIndex); err != nil {
			return fsm.State{}, err
		}
	}
	return m.State(), m.Down
}

// Local returns the newest state.
func (m *Memory) Local() (*fsm.State, error) { return m.Newest(), m.Down }

// WaitIndex waits for an index; the error is TIMEOUT.
func (m *Memory) WaitIndex(ctx context.Context, index uint64) error {
	if err := m.FSM.WaitIndex(ctx, index); err != nil {
		return &api.Error{Code: api.Timeout, Detail: err.Error()}
	}
	return nil
}

// Watch follows the changes.
func (m *Memory) Watch(from uint64) (*fsm.Watcher, error) {
	if m.Down != nil {
		return nil, m.Down
	}
	return m.FSM.Watch(from)
}

// Leader is s1.
func (m *Memory) Leader() (id string, lastContact time.Duration, known bool) {
	return "s1", 7 * time.Millisecond, m.Down == nil
}

// Ready is Down.
func (m *Memory) Ready() error { return m.Down }

// Storage is a disk that works.
func (m *Memory) Storage() api.Storage { return api.Storage{Free: 1 << 30, Limit: 64 << 20} }

// ID is s1.
func (m *Memory) ID() string { return "s1" }

// Status has the three servers.
func (m *Memory) Status(context.Context, bool) (api.Cluster, error) {
	i := m.State().Index()
	return api.Cluster{ID: "c", Self: "s1", Leader: "s1", Index: i, Members: []api.Member{
		{ID: "s1", Role: "leader", Index: i}, {ID: "s2", Role: "follower", Index: min(i, m.Reached)}, {ID: "s3", Error: "refused"},
	}}, m.Down
}

// Transfer notes To.
func (m *Memory) Transfer(_ context.Context, to string) error {
	m.To = to
	return m.Fail
}

func (m *Memory) note(e fsm.Envelope) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.Asked = append(m.Asked, e)
}

// Join notes the address in To, and who asks.
func (m *Memory) Join(_ context.Context, by fsm.Envelope, id, addr string) (api.ServerChange, error) {
	m.To = addr
	m.note(by)
	return api.ServerChange{ID: id, Addr: addr, Phase: "joining", Since: 7}, m.Fail
}

// Remove notes the id in To, and who asks. Without the word only s3, which is down anyway, may leave.
func (m *Memory) Remove(_ context.Context, by fsm.Envelope, id string, acceptNoMajority bool) (api.ServerChange, error) {
	if id != "s3" && !acceptNoMajority {
		return api.ServerChange{}, &api.Error{Code: api.NoMajority, Detail: "s3 does not answer"}
	}
	m.To = id
	m.note(by)
	return api.ServerChange{ID: id, Addr: id + ":1", Phase: "gone", Since: 8}, m.Fail
}

// Members are two that vote, s1 among them, and one that does not.
func (m *Memory) Members() (voters, nonVoters int, votes bool) { return 2, 1, true }

// Last is what was proposed last.
func (m *Memory) Last() fsm.Envelope {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	return m.Asked[len(m.Asked)-1]
}

// Restart replaces the state by its own snapshot, as a restore does: history is
// gone and watchers end.
func (m *Memory) Restart(t testing.TB) {
	t.Helper()
	var buf bytes.Buffer
	if err := m.State().Encode(&buf); err != nil {
		t.Fatal(err)
	}
	if err := m.Restore(io.NopCloser(&buf)); err != nil {
		t.Fatal(err)
	}
}
