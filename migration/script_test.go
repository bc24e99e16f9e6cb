package migration_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// TestScript runs testdata: each script is the specification of a move's life.
// After a change run with -rewrite and review the difference.
func TestScript(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var table migration.Table
		var index uint64
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			for _, line := range strings.Split(d.Input, "\n") {
				index++
				out.WriteString(scriptLine(t, &table, index, d.Cmd, strings.Fields(line)) + "\n")
			}
			return out.String()
		})
	})
}

func scriptLine(t *testing.T, table *migration.Table, index uint64, cmd string, f []string) string {
	t.Helper()
	switch cmd {
	case "start": // id prefix from to first-phase
		phase, err := migration.ParsePhase(f[4])
		if err != nil {
			return err.Error()
		}
		m := migration.Move{ID: f[0], Prefix: scope.Prefix(f[1]), From: scope.NodeID(f[2]), To: scope.NodeID(f[3])}
		next, err := table.Start(m.Enter(phase, index, int64(index)*100))
		if err != nil {
			return err.Error()
		}
		*table = next
		return show(table.Get(f[0]))
	case "quiesce":
		return step(table, index, f[0], cmd, migration.Copying, migration.Quiescing)
	case "shipped":
		return step(table, index, f[0], cmd, migration.Quiescing, migration.Shipped)
	case "ready":
		return step(table, index, f[0], cmd, migration.Shipped, migration.Done)
	case "abort":
		m, _ := table.Get(f[0])
		*table, _ = table.Abort(m.Enter(migration.Aborted, index, int64(index)*100))
		return show(table.Get(f[0]))
	case "migrating":
		return show(table.MatchMigrating([]byte(f[0])))
	case "migrated":
		return show(table.MatchMigrated([]byte(f[0])))
	}
	t.Fatalf("unknown command %q", cmd)
	return ""
}

func step(table *migration.Table, index uint64, id, name string, want, next migration.Phase) string {
	m, _ := table.Get(id)
	if err := m.Require(name, want); err != nil {
		return err.Error()
	}
	m = m.Enter(next, index, int64(index)*100)
	if next == migration.Done {
		*table, _ = table.Commit(m)
	} else {
		*table = table.Update(m)
	}
	return show(table.Get(id))
}

func show(m migration.Move, ok bool) string {
	if !ok {
		return "none"
	}
	return fmt.Sprintf("%s %s %s->%s %s running=%v closed=%v quiesced=%dms finished=%d", m.ID, m.Prefix, m.From, m.To, m.Phase,
		m.Running(), m.Quiesced(), m.QuiescedMS(10_000), m.Finished)
}
