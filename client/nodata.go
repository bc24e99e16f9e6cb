package client

import (
	"context"
	"fmt"

	"github.com/scope-registry/scope-registry/scope"
)

// NoData is the [Store] of a node whose data is elsewhere, as in a database that
// all nodes share: when a scope moves, only the right to write it does, and every
// slice is empty. Both nodes of a move must have it.
type NoData struct{}

var _ Store = NoData{}

// Ship hands over nothing.
func (NoData) Ship(context.Context, Slice, func(Record) error) error { return nil }

// Stage refuses records: a node that keeps data has sent them to one that does
// not, and they would be lost.
func (NoData) Stage(_ context.Context, s Slice, batch []Record) error {
	if len(batch) == 0 {
		return nil
	}
	return fmt.Errorf("move %s of scope %q brings records, and this node keeps none (its store is NoData); give both nodes of a move the same kind of store",
		s.Move, s.Prefix)
}

// Verify hands over nothing.
func (NoData) Verify(context.Context, Slice, func(Record) error) error { return nil }

// Promote has nothing to do.
func (NoData) Promote(context.Context, Slice) error { return nil }

// Discard has nothing to do.
func (NoData) Discard(context.Context, string) error { return nil }

// Staged names no move.
func (NoData) Staged(context.Context) ([]string, error) { return nil, nil }

// Clean has nothing to delete.
func (NoData) Clean(context.Context, scope.Prefix) (bool, error) { return false, nil }
