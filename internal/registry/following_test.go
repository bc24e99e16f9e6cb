package registry

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// TestHungLeaderIsNotWaitedFor has a command in flight to a leader that takes it and then hangs, as a paused one does.
// The next leader answers it, long before the command's own time is over.
func TestHungLeaderIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		old := n.leader("")
		follower := n.others(old.id)[0]
		n.hang(old.id)
		type answer struct {
			result *fsm.Result
			err    error
		}
		answered := make(chan answer, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		go func() {
			result, err := follower.reg.Propose(ctx, setNode(1))
			answered <- answer{result, err}
		}()
		synctest.Wait() // the command is with the old leader
		start := time.Now()
		n.isolate(old.id)
		got := <-answered
		if took := time.Since(start); got.err != nil || took > 10*time.Second {
			t.Fatalf("after %v: %v, %v", took, got.result, got.err)
		}
		if _, ok := follower.reg.State().Node("n1"); !ok {
			t.Fatal("the acknowledged command is not there")
		}
		n.hang("")
		n.heal()
		n.ready()
	})
}

// A server that was told to take over, heard the old leader once more and cannot be elected knows no leader. Here the
// heartbeat comes with the candidate's own term, which leaves raft in the state that the race of the two does.
func TestCandidateKnowsNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		s := n.others(l.id)[0]
		head := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(l.id), Addr: []byte(l.id + ":1")}
		s.trans.DisconnectAll() // it hears the others, and they do not hear that it wants to be elected
		if err := l.reg.guard.TimeoutNow(raft.ServerID(s.id), s.trans.LocalAddr(), &raft.TimeoutNowRequest{RPCHeader: head}, new(raft.TimeoutNowResponse)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, o := range n.others(s.id) {
			n.isolate(o.id)
		}
		addr := raft.ServerAddress(l.id + ":1")
		_, old := raft.NewInmemTransport(addr)
		old.Connect(s.trans.LocalAddr(), s.trans)
		defer func() { _ = old.Close() }()
		beat := &raft.AppendEntriesRequest{RPCHeader: head, Term: s.reg.raft.CurrentTerm()}
		if err := old.AppendEntries(raft.ServerID(s.id), s.trans.LocalAddr(), beat, new(raft.AppendEntriesResponse)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, id := s.reg.raft.LeaderWithID(); string(id) != l.id || s.reg.raft.State() != raft.Candidate {
			t.Fatalf("raft says leader %q as %v, so that this tests nothing", id, s.reg.raft.State())
		}
		if id, _, known := s.reg.Leader(); known {
			t.Errorf("it knows %q", id)
		}
		wantCode(t, s.reg.Ready(), api.NoLeader)
	})
}
