package registry

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
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
