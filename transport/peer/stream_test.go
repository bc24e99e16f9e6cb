package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// raftOver starts raft's transport over a Mux and ends it with the test.
func raftOver(t *testing.T, m *Mux) *raft.NetworkTransport {
	t.Helper()
	tr := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: m.StreamLayer(), MaxPool: 3, MaxRPCsInFlight: 1, Timeout: 10 * time.Second, Logger: quiet(),
	})
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// answerRaft answers every request with a value of its own and keeps the snapshots.
type answerRaft struct {
	mu       sync.Mutex // guards snapshot
	snapshot []byte
}

func (a *answerRaft) lastSnapshot() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.snapshot
}

func (a *answerRaft) serve(rpc raft.RPC) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	var resp any
	switch rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		resp = &raft.AppendEntriesResponse{Term: 3, LastLog: 9, Success: true}
	case *raft.RequestVoteRequest:
		resp = &raft.RequestVoteResponse{Granted: true, Peers: make([]byte, 20_000)} // several writes
	case *raft.RequestPreVoteRequest:
		resp = &raft.RequestPreVoteResponse{Granted: true}
	case *raft.TimeoutNowRequest:
		resp, err = &raft.TimeoutNowResponse{}, errors.New("not now")
	case *raft.InstallSnapshotRequest:
		a.snapshot, err = io.ReadAll(rpc.Reader)
		resp = &raft.InstallSnapshotResponse{Success: true}
	}
	rpc.Respond(resp, err)
}

func TestRaftOverTheMux(t *testing.T) {
	s1 := openMux(t, "s1", nil)
	s2 := openMux(t, "s2", nil)
	from, to := raftOver(t, s1), raftOver(t, s2)
	if got := from.LocalAddr(); string(got) != s1.addr() {
		t.Errorf("raft's address is %s", got)
	}
	var got answerRaft
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case rpc := <-to.Consumer():
				got.serve(rpc)
			case <-done:
				return
			}
		}
	})
	defer wg.Wait()
	defer close(done)
	addr := raft.ServerAddress(s2.addr())
	for round := range 3 { // the connection is used again and again
		append64 := &raft.AppendEntriesRequest{RPCHeader: header, Term: 3, PrevLogEntry: 1, PrevLogTerm: 1, Entries: entries(64, 40_000)}
		var ar raft.AppendEntriesResponse
		if err := from.AppendEntries("s2", addr, append64, &ar); err != nil || !ar.Success {
			t.Fatalf("round %d: %+v, %v", round, ar, err)
		}
		var hr raft.AppendEntriesResponse
		if err := from.AppendEntries("s2", addr, &raft.AppendEntriesRequest{RPCHeader: header, Term: 3}, &hr); err != nil || !hr.Success {
			t.Fatalf("heartbeat: %+v, %v", hr, err)
		}
		var vr raft.RequestVoteResponse
		if err := from.RequestVote("s2", addr, &raft.RequestVoteRequest{RPCHeader: header, Term: 4}, &vr); err != nil || len(vr.Peers) != 20_000 {
			t.Fatalf("vote: %v", err)
		}
		var pr raft.RequestPreVoteResponse
		if err := from.RequestPreVote("s2", addr, &raft.RequestPreVoteRequest{RPCHeader: header, Term: 4}, &pr); err != nil || !pr.Granted {
			t.Fatalf("pre-vote: %v", err)
		}
		if err := from.TimeoutNow("s2", addr, &raft.TimeoutNowRequest{RPCHeader: header}, new(raft.TimeoutNowResponse)); err == nil || err.Error() != "not now" {
			t.Fatalf("transfer: %v", err)
		}
		snapshot := bytes.Repeat([]byte{byte(round), 0xc1}, 5<<19)
		var ir raft.InstallSnapshotResponse
		err := from.InstallSnapshot("s2", addr, &raft.InstallSnapshotRequest{RPCHeader: header, SnapshotVersion: 1, Size: int64(len(snapshot))},
			&ir, bytes.NewReader(snapshot))
		if arrived := got.lastSnapshot(); err != nil || !ir.Success || !bytes.Equal(arrived, snapshot) {
			t.Fatalf("snapshot: %+v, %v, %d bytes of %d", ir, err, len(arrived), len(snapshot))
		}
	}
}

// Before raft runs its connections are refused, after it stopped too; calls go on all the time.
func TestRaftStartsAndStopsAlone(t *testing.T) {
	s1, s2 := openMux(t, "s1", nil), openMux(t, "s2", nil)
	dial := func() error {
		conn, err := s1.StreamLayer().Dial(raft.ServerAddress(s2.addr()), time.Second)
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	call := func() {
		t.Helper()
		if _, err := s1.Call(t.Context(), s2.addr(), KindStatus, nil); err != nil {
			t.Error(err)
		}
	}
	var refused *RefusedError
	if err := dial(); !errors.As(err, &refused) || !strings.Contains(err.Error(), "raft is not running") {
		t.Errorf("before: %v", err)
	}
	call()
	tr := raftOver(t, s2)
	if err := dial(); err != nil {
		t.Errorf("running: %v", err)
	}
	open, err := s1.StreamLayer().Dial(raft.ServerAddress(s2.addr()), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := open.Read(make([]byte, 1)); err == nil {
		t.Errorf("a connection of raft outlived it: %d bytes", n)
	}
	if err := dial(); !errors.As(err, &refused) {
		t.Errorf("after: %v", err)
	}
	call()
	if _, err := s2.StreamLayer().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	if conn, err := s2.StreamLayer().Dial(raft.ServerAddress(s1.addr()), time.Second); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after close: %v, %v", conn, err)
	}
}

// Bytes that raft never sends end the connection before raft's decoder sees them.
func TestRaftConnectionsAreChecked(t *testing.T) {
	s1, s2 := openMux(t, "s1", nil), openMux(t, "s2", nil)
	to := raftOver(t, s2)
	for name, raw := range map[string][]byte{
		"unknown type": {77},
		"huge frame":   {0, 0xdb, 0xff, 0xff, 0xff, 0xff},
		"two at once":  append(realRequests()["vote"], realRequests()["vote"]...),
	} {
		conn, err := s1.StreamLayer().Dial(raft.ServerAddress(s2.addr()), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(raw); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: %d bytes of an answer", name, n)
		}
		_ = conn.Close()
	}
	select {
	case rpc := <-to.Consumer():
		t.Errorf("raft was given %+v", rpc.Command)
	default:
	}
}

// counter is the smallest state machine.
type counter struct{ applied atomic.Int64 }

func (c *counter) Apply(*raft.Log) any                 { return c.applied.Add(1) }
func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (c *counter) Restore(io.ReadCloser) error         { return nil }

// Three real servers of raft elect, replicate and hand over leadership through the checked connections.
func TestRaftClusterOverTheMux(t *testing.T) {
	const servers = 3
	var rafts []*raft.Raft
	var states []*counter
	var conf raft.Configuration
	var transports []*raft.NetworkTransport
	for i := range servers {
		id := fmt.Sprintf("s%d", i+1)
		m := openMux(t, id, func(c *Config) { c.Logger = quiet() })
		transports = append(transports, raftOver(t, m))
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(m.addr())})
	}
	for i, tr := range transports {
		rc := raft.DefaultConfig()
		rc.LocalID, rc.Logger = conf.Servers[i].ID, quiet()
		rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 200*time.Millisecond
		store, snaps, state := raft.NewInmemStore(), raft.NewInmemSnapshotStore(), new(counter)
		if err := raft.BootstrapCluster(rc, store, store, snaps, tr, conf); err != nil {
			t.Fatal(err)
		}
		r, err := raft.NewRaft(rc, state, store, store, snaps, tr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Shutdown().Error() })
		rafts, states = append(rafts, r), append(states, state)
	}
	applied := 0
	for range 2 {
		for range 50 {
			apply(t, rafts, make([]byte, 2000))
			applied++
		}
		if err := leader(t, rafts).LeadershipTransfer().Error(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all servers have applied everything", func() bool {
		for _, s := range states {
			if s.applied.Load() != int64(applied) {
				return false
			}
		}
		return true
	})
}

func leader(t *testing.T, rafts []*raft.Raft) (l *raft.Raft) {
	t.Helper()
	eventually(t, "there is a leader", func() bool {
		for _, r := range rafts {
			if r.State() == raft.Leader {
				l = r
				return true
			}
		}
		return false
	})
	return l
}

// apply applies data exactly once: a leader that is just changing refuses before it has taken anything.
func apply(t *testing.T, rafts []*raft.Raft, data []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		err := leader(t, rafts).Apply(data, time.Second).Error()
		if err == nil {
			return
		}
		if !errors.Is(err, raft.ErrNotLeader) && !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			t.Fatal(err)
		}
	}
	t.Fatal("no leader takes an entry")
}
