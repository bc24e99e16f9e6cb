package main

import (
	"context"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/registry"
	"github.com/scope-registry/scope-registry/transport/httpapi"
)

// front is the registry as the HTTP front end wants it: neither of the two
// packages knows the other.
type front struct{ *registry.Registry }

// Read passes the options on.
func (f front) Read(ctx context.Context, o httpapi.ReadOptions) (fsm.State, error) {
	return f.Registry.Read(ctx, registry.ReadOptions(o))
}
