package client

import (
	"context"
	"fmt"

	"github.com/scope-registry/scope-registry/scope"
)

// noStore is the store of a node that takes no part in moves of mode agent.
type noStore struct{ node string }

func (n noStore) refuse() error {
	return fmt.Errorf("node %q runs without a store that could ship or take records; move in mode assisted, or give its session one", n.node)
}

func (n noStore) Ship(context.Context, Slice, func(Record) error) error   { return n.refuse() }
func (n noStore) Stage(context.Context, Slice, []Record) error            { return n.refuse() }
func (n noStore) Verify(context.Context, Slice, func(Record) error) error { return n.refuse() }
func (n noStore) Promote(context.Context, Slice) error                    { return n.refuse() }
func (n noStore) Discard(context.Context, string) error                   { return nil }
func (n noStore) Staged(context.Context) ([]string, error)                { return nil, nil }
func (n noStore) Clean(context.Context, scope.Prefix) (bool, error)       { return false, n.refuse() }
