package load

import (
	"context"
	"fmt"
	"slices"

	"github.com/scope-registry/scope-registry/internal/overlay"
	"github.com/scope-registry/scope-registry/internal/process"
)

// Faster makes the servers' times a fifth of what they are, so that a run shows
// many expiries. They keep the proportions that api.Leases.Check asks for, and the
// heartbeat of a watch, by which a node sees that it follows, stays below half a
// lease. Nodes learn the times from the servers.
var Faster = []overlay.Edit{
	{
		File: "internal/api/lease.go",
		From: "Leases{Renew: 2 * time.Second, Lease: 8 * time.Second, Deadline: 10 * time.Second, Late: time.Second}",
		To:   "Leases{Renew: 400 * time.Millisecond, Lease: 1600 * time.Millisecond, Deadline: 2 * time.Second, Late: 200 * time.Millisecond}",
	},
	{
		File: "transport/httpapi/watch.go",
		From: "heartbeatEvery = time.Second",
		To:   "heartbeatEvery = 200 * time.Millisecond",
	},
}

// Programs are the paths of what runs are made of.
type Programs struct{ Registry, Store string }

// FewEntries makes snapshots after few log entries, so that a run of a minute takes many, and servers that were away get
// one instead of the log.
var FewEntries = []overlay.Edit{{
	File: "internal/registry/config.go",
	From: "defaultSnapshotThreshold = 8192",
	To:   "defaultSnapshotThreshold = 256",
}}

// Build builds both from the repository at root into dir: the registry with the
// times of Faster and other edits, the store as it is.
func Build(ctx context.Context, root, dir string, edits ...overlay.Edit) (p Programs, err error) {
	if p.Registry, err = process.Build(ctx, root, dir, "./cmd/scope-registry", slices.Concat(Faster, edits)...); err != nil {
		return p, err
	}
	return p.WithStore(ctx, root, dir)
}

// WithStore builds another store into another directory, with edits that break it,
// and returns the programs with it.
func (p Programs) WithStore(ctx context.Context, root, dir string, broken ...overlay.Edit) (Programs, error) {
	var err error
	if p.Store, err = process.Build(ctx, root, dir, "./examples/store", broken...); err != nil {
		return p, fmt.Errorf("the store: %w", err)
	}
	return p, nil
}
