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

// FasterNodes does the same with what a node waits for by its own clock: else one whose watch hangs at a server that stands
// still would look for another after its session has expired.
var FasterNodes = []overlay.Edit{
	{File: "client/mirror.go", From: "mirrorQuiet = 5 * time.Second", To: "mirrorQuiet = time.Second"},
	{File: "client/mirror.go", From: "behindFor = 4 * time.Second", To: "behindFor = 800 * time.Millisecond"},
}

// FewEntries makes snapshots after few log entries, so that a run of a minute takes many, and servers that were away get
// one instead of the log.
var FewEntries = []overlay.Edit{{
	File: "internal/registry/config.go",
	From: "defaultSnapshotThreshold = 8192",
	To:   "defaultSnapshotThreshold = 256",
}}

// FailPoints has a server look into files beside its log for what its disk is to do: see [Disk].
var FailPoints = []overlay.Edit{
	{
		File: "internal/registry/store.go",
		From: "	// Copies, because raft keeps the originals in its cache",
		To:   "	if err := failpoint(s.path); err != nil {\n		return s.check(\"writing the log\", err)\n	}\n	// Copies, because raft keeps the originals in its cache",
	},
	{
		File: "internal/registry/store.go",
		From: "// DeleteRange removes the entries from min to max, both included.",
		To: "func failpoint(path string) error {\n	what, err := os.ReadFile(path + \".slow\")\n	if d, bad := time.ParseDuration(string(what)); err == nil && bad == nil {\n		time.Sleep(d)\n	}\n" +
			"	if _, err := os.Stat(path + \".fails\"); err == nil {\n		return errors.New(\"input/output error, as planted\")\n	}\n	return nil\n}\n\n" +
			"// DeleteRange removes the entries from min to max, both included.",
	},
	{
		File: "internal/registry/space_unix.go",
		From: "	return st.Bavail * uint64(st.Bsize), nil\n",
		To:   "	if unix.Access(path+\"/raft.db.full\", 0) == nil {\n		return 1 << 20, nil\n	}\n	return st.Bavail * uint64(st.Bsize), nil\n",
	},
}

// Disk is what a server that was built with FailPoints finds of its disk: the name of a file beside its log.
type Disk string

// What a disk does. A slow one takes as long for each write as the file says; a full one has 1 MiB left.
const (
	Slow  Disk = "raft.db.slow"
	Fails Disk = "raft.db.fails"
	Full  Disk = "raft.db.full"
)

// Build builds both from the repository at root into dir: the registry with the
// times of Faster and other edits, the store with those of FasterNodes.
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
	if p.Store, err = process.Build(ctx, root, dir, "./examples/store", slices.Concat(FasterNodes, broken)...); err != nil {
		return p, fmt.Errorf("the store: %w", err)
	}
	return p, nil
}
