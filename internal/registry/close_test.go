package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// Raft answers nothing that stands in front of the state machine when it is shut down, and Close would wait for that
// answer for ever. Which of the two raft's goroutine takes up is chance, so the test gives it several.
func TestCloseWithAnEntryBeforeTheStateMachine(t *testing.T) {
	for range 12 {
		synctest.Test(t, func(t *testing.T) {
			busy, free := make(chan struct{}), make(chan struct{})
			n := newNetworkOf(t, 1, func(c *Config) {
				c.OnFatal = func(error) { // runs in the goroutine of the state machine
					close(busy)
					<-free
				}
			})
			n.ready()
			s := n.servers["s1"]
			s.reg.raft.Apply([]byte{0xff}, time.Second) // an entry that nobody can decode
			<-busy
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			// Its barrier stands behind that entry. A call from outside is refused by a server that must not go on.
			if _, err := s.reg.confirms.confirm(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("confirmed: %v", err)
			}
			_, err := s.reg.Confirm(ctx)
			wantCode(t, err, api.NoLeader)
			closed := make(chan error, 1)
			go func() { closed <- s.reg.Close() }()
			synctest.Wait()
			close(free)
			if err := <-closed; err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Nothing that waits outlives the server: not a wait for an index, not a read of one that never comes.
func TestCloseEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		s := n.others(n.leader("").id)[0]
		ended := make(chan error, 2)
		go func() { ended <- s.reg.WaitIndex(t.Context(), s.reg.State().Index()+100) }()
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			_, err := s.reg.Read(ctx, api.ReadOptions{MinIndex: s.reg.State().Index() + 100})
			ended <- err
		}()
		synctest.Wait()
		if err := s.reg.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(ended) != 2 {
			t.Fatalf("%d of 2 waits ended with the server", len(ended))
		}
		for range 2 {
			wantCode(t, <-ended, api.Unavailable)
		}
		wantCode(t, s.reg.WaitIndex(t.Context(), s.reg.State().Index()+1), api.Unavailable)
		_, err := s.reg.Propose(t.Context(), setNode(1))
		wantCode(t, err, api.Unavailable)
		_, err = s.reg.Watch(0)
		wantCode(t, err, api.Unavailable)
	})
}

// A leader without a majority is closed with a command in flight: the command ends as unknown, and Close ends.
func TestCloseOfAnIsolatedLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, l := stuckLeader(t)
		n.isolate(l.id)
		result := make(chan error, 1)
		go func() {
			_, err := l.reg.Propose(t.Context(), setNode(1))
			result <- err
		}()
		synctest.Wait()
		start := time.Now()
		if err := l.reg.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Fatalf("Close took %v", took)
		}
		wantCode(t, <-result, api.OutcomeUnknown)
	})
}

func TestSnapshotOnClose(t *testing.T) {
	const threshold = 64
	many := &fsm.Batch{Nodes: []*fsm.SetNode{{Id: "n0", Addr: "h:1"}}}
	for i := range fsm.MaxBatch - 1 {
		many.Scopes = append(many.Scopes, &fsm.Declare{Prefix: fmt.Appendf(nil, "t%d:", i), Writer: "n0"})
	}
	for _, c := range []struct {
		name   string
		first  []fsm.Command // before a snapshot
		second []fsm.Command // after it
		taken  bool
	}{
		{"few entries", nil, nodes(threshold/worthwhile - 8), false},
		{"a quarter of the threshold", nil, nodes(threshold/worthwhile + 1), true},
		{"few entries after a snapshot", nodes(threshold), nodes(threshold/worthwhile - 8), false},
		{"a quarter after a snapshot", nodes(threshold), nodes(threshold/worthwhile + 1), true},
		{"many scopes", nil, []fsm.Command{many, one(fsm.MaxBatch)}, true},
		{"nearly many scopes", nil, []fsm.Command{many}, false},
		{"many scopes, and nothing after a snapshot", []fsm.Command{many, one(fsm.MaxBatch)}, nil, false},
		{"many scopes, and a change after a snapshot", []fsm.Command{many, one(fsm.MaxBatch)}, nodes(1), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetworkOf(t, 1, func(cfg *Config) { cfg.SnapshotThreshold = threshold })
				n.ready()
				s := n.servers["s1"]
				for _, command := range c.first {
					mustPropose(t, s, fsm.Envelope{Command: command})
				}
				if len(c.first) > 0 {
					if err := s.reg.raft.Snapshot().Error(); err != nil {
						t.Fatal(err)
					}
					<-time.After(time.Second) // another snapshot has another id
				}
				for _, command := range c.second {
					mustPropose(t, s, fsm.Envelope{Command: command})
				}
				before, last := s.newestSnapshot(), s.reg.State().Index()
				if err := s.reg.Close(); err != nil {
					t.Fatal(err)
				}
				after := s.newestSnapshot()
				if taken := after.ID != before.ID; taken != c.taken || taken && after.Index < last {
					t.Fatalf("at index %d; the newest snapshot was of %d, now it is of %d", last, before.Index, after.Index)
				}
			})
		})
	}
}

func one(i int) fsm.Command {
	return &fsm.Declare{Prefix: fmt.Appendf(nil, "t%d:", i), Writer: "n0"}
}

func nodes(n int) (out []fsm.Command) {
	for i := range n {
		out = append(out, setNode(i).Command)
	}
	return out
}

func (s *node) newestSnapshot() raft.SnapshotMeta {
	s.net.t.Helper()
	list, err := s.snaps.List()
	if err != nil {
		s.net.t.Fatal(err)
	}
	if len(list) == 0 {
		return raft.SnapshotMeta{}
	}
	return *list[0]
}

func TestSnapshotsKept(t *testing.T) {
	r := newRig(t)
	r.peers = r.peers[:1]
	r.start("s1")
	for i := range snapshotsKept + 2 {
		if _, err := r.open["s1"].Propose(t.Context(), setNode(i)); err != nil {
			t.Fatal(err)
		}
		if err := r.open["s1"].raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		if list, err := os.ReadDir(filepath.Join(r.dir("s1"), snapshotDir)); err != nil || len(list) != min(i+1, snapshotsKept) {
			t.Fatalf("after %d snapshots there are %d, %v; at most %d are kept", i+1, len(list), err, snapshotsKept)
		}
	}
}
