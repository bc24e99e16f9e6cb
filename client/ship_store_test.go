package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/scope-registry/scope-registry/internal/agent"
)

// TestShipStoreFails: an error of the store is the reason of the abort, and so is
// what no batch can carry.
func TestShipStoreFails(t *testing.T) {
	failing := newMemStore(manyRecords(10, 10)...)
	failing.fails(func(context.Context, string, string) error { return errors.New("disk on fire") })
	for name, c := range map[string]struct {
		store Store
		says  string
	}{
		"fails":     {failing, "disk on fire"},
		"too large": {oneRecord{newMemStore(), Record{Key: []byte("app:big"), Value: make([]byte, MaxValue+1)}}, "app:big"},
		"goes on":   {deaf{oneRecord{newMemStore(), Record{Key: []byte("other:1")}}}, `"other:1" is not in scope`},
		"stranger":  {oneRecord{newMemStore(), Record{Key: []byte("other:1")}}, `"other:1" is not in scope`},
		"no store":  {nil, "no store"},
	} {
		for _, precopy := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				source := newSliceSource(c.store, func(context.Context, Peer, *Batch) error { return nil })
				if precopy {
					source.copySlice(t.Context())
				} else {
					source.shipSlice(t.Context())
				}
				if failed := only[agent.ShipFailed](t, source.events()); !strings.Contains(failed.Reason, c.says) {
					t.Errorf("%s: the reason is %q", name, failed.Reason)
				}
			})
		}
	}
}

// oneRecord ships a record that it should not.
type oneRecord struct {
	*memStore
	record Record
}

func (o oneRecord) Ship(_ context.Context, _ Slice, send func(Record) error) error {
	return send(o.record)
}

// deaf does not hear that a record was refused.
type deaf struct{ oneRecord }

func (d deaf) Ship(ctx context.Context, s Slice, send func(Record) error) error {
	_ = d.oneRecord.Ship(ctx, s, send)
	return nil
}
