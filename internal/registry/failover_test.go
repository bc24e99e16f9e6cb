package registry

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

func TestForwardingAndConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		n.until("a cluster id", func() bool { return l.reg.State().Cluster().ID == "c1" })
		for i, s := range n.others(l.id) {
			r := mustPropose(t, s, setNode(i))
			if got := s.reg.State().Index(); got < r.GetIndex() {
				t.Fatalf("%s has index %d after a proposal at %d", s.id, got, r.GetIndex())
			}
			for _, o := range n.servers {
				index, err := o.reg.Confirm(t.Context())
				if err != nil || index < r.GetIndex() || o.reg.State().Index() < index {
					t.Fatalf("%s confirmed %d at %d: %v; the proposal has %d", o.id, index, o.reg.State().Index(), err, r.GetIndex())
				}
			}
		}
		status, err := n.others(l.id)[0].reg.Status(t.Context(), true)
		if err != nil || len(status.Members) != 3 || status.Leader != l.id || status.Nodes != 2 {
			t.Fatalf("status %+v: %v", status, err)
		}
		for _, m := range status.Members {
			if m.StateHash == "" || m.StateHash != status.Members[0].StateHash || m.Error != "" {
				t.Fatalf("members %+v", status.Members)
			}
		}
	})
}

func TestPartitionedLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		for round := range 5 {
			old := n.leader("")
			mustPropose(t, old, setNode(3*round))
			n.isolate(old.id)
			_, err := old.reg.Propose(t.Context(), setNode(3*round+1))
			wantCode(t, err, api.OutcomeUnknown, api.NoLeader)
			_, err = old.reg.Confirm(t.Context())
			wantCode(t, err, api.NoLeader, api.Timeout)
			_, err = old.reg.Read(t.Context(), api.ReadOptions{MaxStale: time.Second})
			wantCode(t, err, api.Stale)
			next := n.leader(old.id)
			acked := mustPropose(t, next, setNode(3*round+2))
			n.heal()
			index, err := old.reg.Confirm(t.Context())
			if err != nil || index < acked.GetIndex() {
				t.Fatalf("after healing %s confirmed %d, want at least %d: %v", old.id, index, acked.GetIndex(), err)
			}
			for _, s := range n.servers {
				if _, err := s.reg.Confirm(t.Context()); err != nil {
					t.Fatal(err)
				}
				for i := range 3 * (round + 1) {
					if _, ok := s.reg.State().Node(scope.NodeID(setNode(i).Command.(*fsm.SetNode).GetId())); !ok && i%3 != 1 {
						t.Fatalf("%s lost acknowledged node %d", s.id, i)
					}
				}
			}
		}
	})
}

func TestRetryGivesTheSameResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		old := n.leader("")
		e := setNode(1)
		e.RequestID = old.reg.requestID()
		first := mustPropose(t, old, e)
		n.isolate(old.id)
		again := mustPropose(t, n.leader(old.id), e)
		if again.GetIndex() != first.GetIndex() {
			t.Fatalf("the retry was applied at %d, the first at %d", again.GetIndex(), first.GetIndex())
		}
	})
}

func TestTransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		to, from := n.others(l.id)[0], n.others(l.id)[1]
		wantCode(t, from.reg.Transfer(t.Context(), "s9"), api.NotFound)
		if err := from.reg.Transfer(t.Context(), to.id); err != nil {
			t.Fatal(err)
		}
		n.until("the transfer", func() bool { return to.reg.raft.State() == raft.Leader })
		mustPropose(t, l, setNode(1))
	})
}

func TestSnapshotCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, func(c *Config) { c.SnapshotThreshold = 8 })
		n.ready()
		l := n.leader("")
		late := n.others(l.id)[0]
		n.isolate(late.id)
		l = n.leader(late.id)
		var last *fsm.Result
		for i := range 100 {
			last = mustPropose(t, l, setNode(i))
		}
		n.until("snapshots", func() bool {
			list, err := l.snaps.List()
			return err == nil && len(list) > 0 && list[0].Index >= 40
		})
		n.heal()
		if err := late.reg.WaitIndex(t.Context(), last.GetIndex()); err != nil {
			t.Fatal(err)
		}
		if late.reg.State().Hash() != l.reg.State().Hash() {
			t.Fatal("the states differ after a snapshot")
		}
	})
}

// The new leader cannot know how much of the window the old one saw pass, so it begins anew.
func TestWindowAbortByTheNewLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window, passed = time.Minute, 50 * time.Second
		n := newNetwork(t, nil)
		n.ready()
		old := n.leader("")
		mustPropose(t, old, setNode(1))
		mustPropose(t, old, setNode(2))
		mustPropose(t, old, fsm.Envelope{Command: &fsm.Declare{Prefix: []byte("app:"), Writer: "n1"}})
		moved := mustPropose(t, old, fsm.Envelope{Command: &fsm.StartMove{
			Prefix: []byte("app:"), From: "n1", To: "n2", Mode: "assisted", WindowMs: uint64(window.Milliseconds())}})
		w, err := n.others(old.id)[0].reg.Watch(moved.GetIndex())
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(passed)
		n.isolate(old.id)
		n.leader(old.id)
		elected := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var ended *migration.Move
		for ended == nil {
			item, err := w.Next(ctx)
			if err != nil {
				t.Fatalf("the move was not ended: %v", err)
			}
			for _, e := range item.Events {
				if e.Move != nil && !e.Move.Running() {
					ended = e.Move
				}
			}
		}
		if ended.Phase != migration.Aborted || ended.Cause != fsm.CauseWindow {
			t.Fatalf("the move is %s, cause %q; want an abort by the window", ended.Phase, ended.Cause)
		}
		if took := time.Since(elected); took < window-5*time.Second || took > window+5*time.Second {
			t.Fatalf("aborted %v after the election and %v after the start, want the whole window of %v again", took, passed+took, window)
		}
		if r := n.others(old.id)[0].reg.Newest().Route([]byte("app:x"), "n1"); !r.IsLocalWriter() {
			t.Fatalf("after the abort the source gets %s", r.Verdict)
		}
	})
}
