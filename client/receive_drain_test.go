package client

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
)

// shows has the node see changes of one index.
func (n *sliceTarget) shows(changes ...api.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	n.step(agent.Watched{Stream: n.watch, Item: api.WatchItem{Type: "change", Index: n.index, Incarnation: 1, Tag: "x", Changes: changes}})
}

// TestTakeWaitsForWrites: nothing is discarded or staged while what this node did under the prefix before the move may still
// execute: a store may stage in place. The source is told to send the same again.
func TestTakeWaitsForWrites(t *testing.T) {
	clock := func() time.Duration { return 0 }
	scopeOf := func(owner string, epoch uint64) api.Change {
		return api.Change{Op: "put", Scope: &api.Scope{Prefix: "app:", Writer: owner, Owner: owner, Epoch: epoch, Incarnation: 1, State: "owned"}}
	}
	write := func(t *testing.T, n *sliceTarget) (over func()) {
		w, err := n.adm.Enter([]byte("app:a"), clock, 0)
		if err != nil {
			t.Fatal(err)
		}
		return func() { n.adm.Leave(&w) }
	}
	for name, before := range map[string]func(*testing.T, *sliceTarget) (over func()){
		"a write of no scope": write,
		"a write of the former owner": func(t *testing.T, n *sliceTarget) func() {
			n.shows(scopeOf("n2", 3))
			return write(t, n)
		},
		"a delete of an old copy": func(t *testing.T, n *sliceTarget) func() {
			n.shows(scopeOf("n1", 4), api.Change{Op: "put", Cleanup: &api.Cleanup{Node: "n2", Prefix: "app:", Epoch: 4}})
			if !n.adm.BeginDelete("app:", 4) {
				t.Fatal("the old copy may not be deleted")
			}
			return n.adm.EndDelete
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newSliceTarget(t, newMemStore())
				defer n.stop()
				over := before(t, n)
				n.shows(scopeOf("n1", 5))
				n.sees("copying")
				wantTake(t, n, batchOf("s1", 0, "app:a"), api.Unavailable)
				if n.store.called("stage")+n.store.called("discard") != 0 {
					t.Error("the store was changed meanwhile")
				}
				over()
				wantTake(t, n, batchOf("s1", 0, "app:a"), "")
				// What is over stays over: nothing is admitted there any more.
				if _, err := n.adm.Enter([]byte("app:a"), clock, 0); api.CodeOf(err) != api.Misdirected {
					t.Errorf("a write while the slice comes: %v", err)
				}
				if n.adm.BeginDelete("app:", 4) {
					t.Error("the old copy may be deleted while the slice comes")
				}
				wantTake(t, n, batchOf("s1", 1, "app:b"), "")
			})
		})
	}
}
