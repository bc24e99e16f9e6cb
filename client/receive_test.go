package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
)

// batchOf is a batch of the move's stream with a record for each key.
func batchOf(stream string, number uint64, keys ...string) *Batch {
	b := &Batch{Slice: Slice(aMove), Stream: stream, Number: number}
	for _, k := range keys {
		b.Records = append(b.Records, Record{Key: []byte(k), Value: []byte("v")})
	}
	return b
}

// lastOf ends a stream that has brought just these keys.
func lastOf(b *Batch, all ...string) *Batch {
	b.Last, b.Sum = true, newMemStore(batchOf("", 0, all...).Records...).manifest("", "")
	return b
}

// wantTake has the target take a batch, and wants the code, "" for none.
func wantTake(t *testing.T, n *sliceTarget, b *Batch, code api.Code) {
	t.Helper()
	err := n.take(t.Context(), b)
	if err == nil && code != "" || err != nil && api.CodeOf(err) != code {
		t.Errorf("batch %d of stream %s: %v, want %q", b.Number, b.Stream, err, code)
	}
}

// TestTakeStreams: batches come in order, a repeated one changes nothing, and the
// beginning of another stream replaces what was staged.
func TestTakeStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSliceTarget(t, newMemStore())
		defer n.stop()
		wantTake(t, n, batchOf("s1", 0, "app:a"), api.NotFound) // the view is behind
		if len(n.recv.areas) != 0 {
			t.Error("something is kept of a move that is not known")
		}
		n.sees("quiescing")
		wantTake(t, n, batchOf("s1", 1, "app:b"), api.Stale)
		wantTake(t, n, batchOf("s1", 0, "app:a", "app:x"), "")
		wantTake(t, n, batchOf("s1", 0, "app:a", "app:x"), "")
		wantTake(t, n, batchOf("s1", 2, "app:c"), api.Stale)
		wantTake(t, n, batchOf("s1", ^uint64(0), "app:c"), api.Stale)
		wantTake(t, n, batchOf("s1", 1, "app:b"), "")
		wantTake(t, n, batchOf("s2", 1, "app:b"), api.Stale)
		wantTake(t, n, batchOf("s1", 1, "app:b"), "")
		if got := n.store.called("stage"); got != 2 {
			t.Errorf("%d batches were staged, want 2", got)
		}
		wantTake(t, n, batchOf("s2", 0, "app:z"), "")
		wantTake(t, n, batchOf("s1", 2, "app:c"), api.Stale)
		if got := n.store.stagedOf("m1"); len(got) != 1 {
			t.Errorf("after another stream began: %v is staged", got)
		}
		gone := batchOf("s2", 1, "app:y")
		gone.Records = append(gone.Records, Record{Key: []byte("app:z"), Deleted: true}, Record{Key: []byte("app:never"), Deleted: true})
		wantTake(t, n, lastOf(gone, "app:y"), "")
		wantTake(t, n, lastOf(gone, "app:y"), "") // also while it is verified
		synctest.Wait()
		if got := only[agent.Received](t, n.events()); Manifest(got.Manifest) != gone.Sum {
			t.Errorf("received %+v, want %+v", got.Manifest, gone.Sum)
		}
		if got := len(eventsOf[agent.Staging](n.events())); got != 2 {
			t.Errorf("told of staging %d times, want 2", got)
		}
	})
}

// TestTakeWhatIsComplete: a slice that is complete, sealed or promoted takes no
// more records; who ends a stream of the same ones is told that it is done.
func TestTakeWhatIsComplete(t *testing.T) {
	for _, state := range []string{"complete", "sealed", "restarted"} {
		synctest.Test(t, func(t *testing.T) {
			n := newSliceTarget(t, newMemStore())
			defer n.stop()
			n.sees("quiescing")
			held := make(chan struct{})
			if state == "complete" {
				n.store.fails(func(ctx context.Context, op, _ string) error {
					if op == "verify" {
						<-held
					}
					return nil
				})
			}
			wantTake(t, n, lastOf(batchOf("s1", 0, "app:a"), "app:a"), "")
			synctest.Wait()
			if state == "restarted" {
				n.restart()
			}
			wantTake(t, n, lastOf(batchOf("s1", 0, "app:a"), "app:a"), "")
			wantTake(t, n, lastOf(batchOf("s2", 0, "app:a"), "app:a"), "")
			wantTake(t, n, lastOf(batchOf("s2", 0, "app:b"), "app:b"), api.ManifestMismatch)
			wantTake(t, n, batchOf("s2", 0, "app:b"), api.WrongPhase)
			wantTake(t, n, batchOf("s1", 1, "app:b"), api.WrongPhase)
			if got := n.store.stagedOf("m1"); len(got) != 1 || n.store.called("stage") != 1 {
				t.Errorf("%s: %v is staged, by %d calls", state, got, n.store.called("stage"))
			}
			close(held)
			synctest.Wait()
		})
	}
}

// TestTakeRefusesForeign: another scope than the move's, or a key that is not in it.
func TestTakeRefusesForeign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSliceTarget(t, newMemStore())
		defer n.stop()
		n.sees("quiescing")
		wantTake(t, n, batchOf("s1", 0, "app:a", "apo:a"), api.Invalid)
		other := batchOf("s1", 0, "app:a:a")
		other.Prefix = "app:a"
		wantTake(t, n, other, api.Invalid)
		wantTake(t, n, &Batch{Slice: Slice(aMove)}, api.Invalid)
		if n.store.called("stage")+n.store.called("discard") != 0 || len(eventsOf[agent.Staging](n.events())) != 0 {
			t.Error("the store was asked for something")
		}
	})
}

// TestTakeStoreFails: what the source is answered, and what the node is told, when
// the store of the target fails.
func TestTakeStoreFails(t *testing.T) {
	for _, c := range []struct {
		op   string
		code api.Code
	}{{"discard", api.Unavailable}, {"stage", api.Internal}, {"verify", ""}} {
		synctest.Test(t, func(t *testing.T) {
			n := newSliceTarget(t, newMemStore())
			defer n.stop()
			n.sees("quiescing")
			n.store.fails(func(_ context.Context, op, _ string) error {
				if op == c.op {
					return errors.New("disk on fire")
				}
				return nil
			})
			err := n.take(t.Context(), lastOf(batchOf("s1", 0, "app:a"), "app:a"))
			synctest.Wait()
			if c.op == "verify" {
				failed := only[agent.ShipFailed](t, n.events())
				if err != nil || !strings.Contains(failed.Reason, "disk on fire") || !strings.Contains(failed.Reason, `"n2"`) {
					t.Errorf("verify failed: %v, and the node was told %q", err, failed.Reason)
				}
				return
			}
			if api.CodeOf(err) != c.code || !strings.Contains(err.Error(), "disk on fire") {
				t.Errorf("%s failed: %v, want %s", c.op, err, c.code)
			}
			n.store.fails(nil)
			wantTake(t, n, lastOf(batchOf("s1", 0, "app:a"), "app:a"), "") // the same again
			synctest.Wait()
			only[agent.Received](t, n.events())
		})
	}
	synctest.Test(t, func(t *testing.T) {
		n := newSliceTarget(t, nil)
		defer n.stop()
		n.sees("quiescing")
		wantTake(t, n, batchOf("s1", 0, "app:a"), api.Internal)
	})
}

// TestTakeEnds: a move that ends has its staging discarded, whatever runs, and no
// batch that comes late is staged, or told of.
func TestTakeEnds(t *testing.T) {
	for _, during := range []string{"nothing", "discard", "stage", "verify"} {
		synctest.Test(t, func(t *testing.T) {
			n := newSliceTarget(t, newMemStore())
			defer n.stop()
			n.sees("quiescing")
			var once sync.Once
			n.store.fails(func(ctx context.Context, op, _ string) error {
				if op != during {
					return nil
				}
				once.Do(func() {
					n.sees("aborted")
					if op == "verify" {
						<-ctx.Done() // it is long; the discard ends it
					}
				})
				return ctx.Err()
			})
			wantTake(t, n, batchOf("s1", 0, "app:a"), "")
			err := n.take(t.Context(), lastOf(batchOf("s1", 1, "app:b"), "app:a", "app:b"))
			if during == "nothing" {
				n.sees("aborted")
			}
			synctest.Wait()
			wantTake(t, n, batchOf("s1", 2, "app:c"), api.NotFound)
			wantTake(t, n, batchOf("s2", 0, "app:c"), api.NotFound)
			if got := n.store.stagedOf("m1"); len(got) != 0 {
				t.Errorf("the move ended during %s (%v), and %d records are staged", during, err, len(got))
			}
			if got := eventsOf[agent.Received](n.events()); during != "nothing" && len(got) != 0 {
				t.Errorf("the move ended during %s, and the node was told %+v", during, got)
			}
			if len(n.recv.areas) != 0 {
				t.Errorf("the move ended during %s, and is not forgotten", during)
			}
			if len(eventsOf[agent.Discarded](n.events())) == 0 {
				t.Errorf("the move ended during %s, and nothing was discarded", during)
			}
		})
	}
}

// TestTakeWaitsItsTurn: batches of a move are staged one after the other. A sender
// that leaves does not end what it began, and not many may wait.
func TestTakeWaitsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSliceTarget(t, newMemStore())
		defer n.stop()
		n.sees("quiescing")
		n.store.fails(func(ctx context.Context, op, _ string) error {
			if op == "stage" && !sleep(ctx, time.Second) {
				return ctx.Err()
			}
			return nil
		})
		leaves, leave := context.WithCancel(t.Context())
		var takes sync.WaitGroup
		takes.Go(func() { _ = n.take(leaves, batchOf("s1", 0, "app:a")) })
		synctest.Wait()
		leave()
		codes := map[api.Code]int{}
		var mu sync.Mutex // guards codes
		for range maxWaiting + 5 {
			takes.Go(func() {
				err := n.take(t.Context(), batchOf("s1", 0, "app:a"))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					codes[""]++
				} else {
					codes[api.CodeOf(err)]++
				}
			})
		}
		waits, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := n.take(waits, batchOf("s1", 0, "app:a")); api.CodeOf(err) != api.Unavailable || time.Since(began) > time.Millisecond {
			t.Errorf("who waited for its turn and left got %v after %v", err, time.Since(began))
		}
		takes.Wait()
		if got := n.store.called("stage"); got != 1 || codes[""] < maxWaiting-1 || codes[api.Unavailable] < 4 || codes[""]+codes[api.Unavailable] != maxWaiting+5 {
			t.Errorf("staged %d times, answered %v", got, codes)
		}
	})
}

// TestReceiverCloses: close ends what runs, waits for it, and nothing is told
// afterwards.
func TestReceiverCloses(t *testing.T) {
	for _, during := range []string{"stage", "verify"} {
		synctest.Test(t, func(t *testing.T) {
			n := newSliceTarget(t, newMemStore())
			n.sees("quiescing")
			running := 0
			n.store.fails(func(ctx context.Context, op, _ string) error {
				if op == during {
					running++
					<-ctx.Done()
					running--
				}
				return ctx.Err()
			})
			var takes sync.WaitGroup
			takes.Go(func() { _ = n.take(context.Background(), lastOf(batchOf("s1", 0, "app:a"), "app:a")) })
			synctest.Wait()
			if running != 1 {
				t.Fatalf("%s does not run", during)
			}
			n.recv.close()
			if running != 0 {
				t.Errorf("closed, and %s runs", during)
			}
			takes.Wait()
			wantTake(t, n, batchOf("s1", 0, "app:a"), api.Unavailable)
			if err := n.recv.discard(t.Context(), "m1"); api.CodeOf(err) != api.Unavailable {
				t.Errorf("discard after close: %v", err)
			}
			if got := n.events(); len(eventsOf[agent.Received](got))+len(eventsOf[agent.ShipFailed](got)) != 0 {
				t.Errorf("told %+v", got)
			}
			n.work.Wait()
		})
	}
}

// TestAnswers: every code has its row in the table of what a source does.
func TestAnswers(t *testing.T) {
	want := map[api.Code]answer{api.NotFound: sendAgain, api.Unavailable: sendAgain, api.OutcomeUnknown: sendAgain, api.Timeout: sendAgain, api.Corrupt: sendAgain, api.Stale: beginAnew}
	for _, c := range append(api.Codes(), "NEWER") {
		w, listed := want[c]
		if !listed {
			w = giveItUp
		}
		if got := answerOf(fmt.Errorf("sent: %w", &api.Error{Code: c})); got != w {
			t.Errorf("%s: %d, want %d", c, got, w)
		}
	}
	if got := answerOf((&bodies{}).take(1)); got != waitForRoom {
		t.Errorf("no room: %d", got)
	}
	if answerOf(nil) != goOn || answerOf(errors.New("broken pipe")) != sendAgain {
		t.Error("no error, or one of no code")
	}
}
