package client

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// TestLargeRecords are sent from where they are, one at a time, and kept when the copy ends before they got there.
func TestLargeRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := newMemStore(manyRecords(10, 10)...), newMemStore()
		from.put("app:large1", strings.Repeat("1", largeRecord))
		from.put("app:large2", strings.Repeat("2", largeRecord))
		target := newSliceTarget(t, to)
		defer target.stop()
		target.sees("quiescing")
		wire := &badWire{target: target}
		ctx, cancel := context.WithCancelCause(t.Context())
		source := newSliceSource(lender{from}, func(to context.Context, p Peer, b *Batch) error {
			if len(b.Records) == 1 && len(b.Records[0].Value) >= largeRecord && to.Err() == nil && ctx.Err() == nil {
				cancel(errAsked) // as a closing does, in the middle of the first large one
				<-to.Done()
				return to.Err()
			}
			return wire.send(to, p, b)
		})
		x := source.beginCopy(ctx, agent.Copy{Slice: aMove, To: "n2"}, cancel)
		if err := x.copyAll(ctx); !errors.Is(err, errAsked) || x.stream == nil {
			t.Fatalf("the copy ended with %v", err)
		}
		source.end(x, x.copyEnded)
		source.shipSlice(t.Context())
		synctest.Wait()
		shipped, received := only[agent.Shipped](t, source.events()), only[agent.Received](t, target.events())
		if shipped.Manifest != received.Manifest || !sameRecords(to.stagedOf("m1"), from.slice()) {
			t.Errorf("shipped %+v, received %+v", shipped.Manifest, received.Manifest)
		}
		if len(wire.streams) != 1 {
			t.Errorf("%d streams", len(wire.streams))
		}
	})
}

// TestLargeRecordsAreLetGo: a record that got there is not held any more.
func TestLargeRecordsAreLetGo(t *testing.T) {
	x := &delivery{slice: Slice(aMove), to: "n2", id: "s1", addr: func(scope.NodeID) string { return "" },
		send: func(context.Context, Peer, *Batch) error { return nil }}
	value := make([]byte, largeRecord)
	gone := weak.Make(&value[0])
	if err := x.add(t.Context(), Record{Key: []byte("app:a"), Value: value}); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	if gone.Value() != nil {
		t.Error("it is still held")
	}
	runtime.KeepAlive(x)
}

// TestShipWaitsForRoom: however long others have the room of a target, a move to it waits for them, and as ever for what it
// waits for else.
func TestShipWaitsForRoom(t *testing.T) {
	for _, precopy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			room, began := bodies{most: 1}, time.Now()
			source := newSliceSource(newMemStore(manyRecords(10, 10)...), func(context.Context, Peer, *Batch) error {
				if time.Since(began) < 2*slowPatience {
					return room.take(2)
				}
				return &api.Error{Code: api.Unavailable, Detail: "refused"}
			})
			patience := giveUp
			if precopy {
				patience = copyPatience
				source.copySlice(t.Context())
			} else {
				source.shipSlice(t.Context())
			}
			took := time.Since(began) - 2*slowPatience
			if failed := only[agent.ShipFailed](t, source.events()); !strings.Contains(failed.Reason, "refused") || took < patience-maxRetry || took > patience+2*maxRetry {
				t.Errorf("it gave up %v after there was room, want %v: %s", took, patience, failed.Reason)
			}
		})
	}
}

// lender takes the memory back in which it hands over values: nobody finds them there later, nor those of another pass.
type lender struct{ *memStore }

func (l lender) Ship(ctx context.Context, s Slice, send func(Record) error) error {
	return l.memStore.Ship(ctx, s, func(r Record) error {
		lent := bytes.Clone(r.Value)
		defer clear(lent)
		r.Value = lent
		return send(r)
	})
}
