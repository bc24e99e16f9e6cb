package migration_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

func start(t *testing.T, table migration.Table, id, prefix string, from, to scope.NodeID) (migration.Table, migration.Move) {
	t.Helper()
	m := migration.Move{ID: id, Prefix: scope.Prefix(prefix), From: from, To: to}.Enter(migration.Quiescing, 1, 1000)
	table, err := table.Start(m)
	if err != nil {
		t.Fatal(err)
	}
	return table, m
}

// The vectors of the seed's own unit tests.

func TestSeedStartCommitAbort(t *testing.T) {
	table, m := start(t, migration.Table{}, "m1", "p:", "A", "B")
	if got, ok := table.LookupMigrating("p:"); !ok || got.From != "A" || got.To != "B" {
		t.Errorf("LookupMigrating = %+v, %v", got, ok)
	}
	again := migration.Move{ID: "m2", Prefix: "p:"}
	if _, err := table.Start(again); !errors.Is(err, migration.ErrAlreadyMigrating) {
		t.Errorf("double start: %v", err)
	}
	committed, _ := table.Commit(m.Enter(migration.Done, 2, 2000))
	if _, ok := committed.LookupMigrating("p:"); ok {
		t.Error("a committed move still runs")
	}
	if got, ok := committed.LookupMigrated("p:"); !ok || got.To != "B" {
		t.Errorf("LookupMigrated = %+v, %v", got, ok)
	}
	aborted, _ := table.Abort(m.Enter(migration.Aborted, 2, 2000))
	if _, ok := aborted.LookupMigrating("p:"); ok {
		t.Error("an aborted move still runs")
	}
	if _, ok := aborted.LookupMigrated("p:"); ok {
		t.Error("an aborted move moved its scope")
	}
	if got, ok := table.MatchMigrating([]byte("p:x")); !ok || got.ID != "m1" {
		t.Errorf("MatchMigrating = %+v, %v", got, ok)
	}
}

// The seed lets nested prefixes move at once; here the outer one's slice holds
// the inner's keys, so the second start is refused.
func TestNestedStartRefused(t *testing.T) {
	for _, order := range [][2]string{{"app:", "app:billing:"}, {"app:billing:", "app:"}} {
		table, _ := start(t, migration.Table{}, "m1", order[0], "A", "B")
		if _, err := table.Start(migration.Move{ID: "m2", Prefix: scope.Prefix(order[1])}); !errors.Is(err, migration.ErrAlreadyMigrating) {
			t.Errorf("%v: %v", order, err)
		}
	}
}

func TestMoveThereAndBack(t *testing.T) {
	table, m := start(t, migration.Table{}, "m1", "p:", "A", "B")
	table, _ = table.Commit(m.Enter(migration.Done, 2, 2000))
	table, back := start(t, table, "m2", "p:", "B", "A")
	if got, _ := table.MatchMigrated([]byte("p:1")); got.ID != "m1" {
		t.Errorf("while m2 runs the last flip is %q, want m1", got.ID)
	}
	table, _ = table.Commit(back.Enter(migration.Done, 4, 4000))
	if got, _ := table.LookupMigrated("p:"); got.ID != "m2" {
		t.Errorf("the last flip is %q, want m2", got.ID)
	}
}

func TestFinishedMovesAreBounded(t *testing.T) {
	var table migration.Table
	for i := range migration.MaxFinished + 5 {
		var m migration.Move
		table, m = start(t, table, fmt.Sprintf("m%d", i), fmt.Sprintf("p%d:", i), "A", "B")
		table, _ = table.Commit(m.Enter(migration.Done, 2, 2000))
	}
	kept := slices.Collect(table.Finished())
	if len(kept) != migration.MaxFinished || kept[0].ID != fmt.Sprintf("m%d", migration.MaxFinished+4) {
		t.Errorf("%d kept, newest %s", len(kept), kept[0].ID)
	}
	if _, ok := table.Get("m4"); ok {
		t.Error("m4 should be forgotten")
	}
	if _, ok := table.LookupMigrated("p4:"); ok {
		t.Error("the flip of p4: points to a forgotten move")
	}
	if _, ok := table.Get("m5"); !ok || table.Ended() != migration.MaxFinished+5 {
		t.Errorf("m5 kept: %v, ended %d", ok, table.Ended())
	}
}

func TestRunningMovesAreBounded(t *testing.T) {
	var table migration.Table
	for i := range migration.MaxRunning {
		table, _ = start(t, table, fmt.Sprintf("m%d", i), fmt.Sprintf("p%d:", i), "A", "B")
	}
	if _, err := table.Start(migration.Move{ID: "one-more", Prefix: "q"}); !errors.Is(err, migration.ErrTooManyMoves) {
		t.Errorf("one more than %d: %v", migration.MaxRunning, err)
	}
}

func TestPhasesAndManifests(t *testing.T) {
	m := migration.Move{ID: "m", Phase: migration.Quiescing}
	if err := m.Require("ready", migration.Shipped); !errors.Is(err, migration.ErrWrongPhase) {
		t.Errorf("ready while quiescing: %v", err)
	}
	if err := m.Require("shipped", migration.Quiescing); err != nil {
		t.Error(err)
	}
	m.Shipped = &migration.Manifest{Keys: 2, Bytes: 10, Digest: "d"}
	if err := m.MatchReady(migration.Manifest{Keys: 1, Bytes: 10, Digest: "d"}); !errors.Is(err, migration.ErrManifestMismatch) {
		t.Errorf("other manifest: %v", err)
	}
	if err := m.MatchReady(*m.Shipped); err != nil {
		t.Error(err)
	}
	for _, p := range []migration.Phase{migration.Copying, migration.Quiescing, migration.Shipped, migration.Done, migration.Aborted} {
		if back, err := migration.ParsePhase(p.String()); err != nil || back != p {
			t.Errorf("%v comes back as %v, %v", p, back, err)
		}
	}
	if _, err := migration.ParsePhase(""); err == nil {
		t.Error("an empty phase is accepted")
	}
}

func TestQuiescedMilliseconds(t *testing.T) {
	m := migration.Move{}.Enter(migration.Copying, 1, 1000)
	if ms := m.QuiescedMS(9000); ms != 0 {
		t.Errorf("while copying: %d", ms)
	}
	m = m.Enter(migration.Quiescing, 2, 2000)
	if ms := m.QuiescedMS(2500); ms != 500 {
		t.Errorf("while quiescing: %d", ms)
	}
	if ms := m.Enter(migration.Done, 3, 2300).QuiescedMS(9000); ms != 300 {
		t.Errorf("done: %d", ms)
	}
	if ms := m.Enter(migration.Done, 3, 1500).QuiescedMS(9000); ms != 0 {
		t.Errorf("clock stepped back: %d", ms)
	}
}
