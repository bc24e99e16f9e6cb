package scope_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/scope-registry/scope-registry/scope"
)

// TestScript runs testdata: each script is the specification of what the table
// answers. After a change run with -rewrite and review the difference.
func TestScript(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var table scope.Table
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			for _, line := range strings.Split(d.Input, "\n") {
				out.WriteString(scriptLine(t, &table, d.Cmd, strings.Fields(line)) + "\n")
			}
			return out.String()
		})
	})
}

// scriptLine runs one line of a script; prefixes and keys are in text form, and
// a lone dash is the empty one.
func scriptLine(t *testing.T, table *scope.Table, cmd string, f []string) string {
	t.Helper()
	text := func(i int) string {
		if i >= len(f) || f[i] == "-" {
			return ""
		}
		raw, err := scope.ParseBytes(f[i])
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	switch cmd {
	case "declare": // prefix writer [fallback]
		next, err := table.With(scope.New(text(0), scope.NodeID(f[1])).WithFallback(scope.NodeID(text(2))))
		if err != nil {
			return err.Error()
		}
		*table = next
		return fmt.Sprintf("ok: %d scopes, %d without fallback", table.Len(), table.NoFallbackLen())
	case "retire": // prefix
		*table = table.Without(scope.Prefix(text(0)))
		return fmt.Sprintf("ok: %d scopes, %d without fallback", table.Len(), table.NoFallbackLen())
	case "close": // prefix target
		s, ok := table.Get(scope.Prefix(text(0)))
		if !ok {
			return "no such scope"
		}
		closed := *s
		closed.Quiesced = scope.NodeID(text(1))
		*table, _ = table.Replace(closed)
		return "ok"
	case "release": // prefix
		s, ok := table.Get(scope.Prefix(text(0)))
		if !ok {
			return "no such scope"
		}
		released := *s
		released.Released = true
		*table, _ = table.Replace(released)
		return "ok"
	case "hold": // key as
		r := table.Route([]byte(text(0)), scope.NodeID(f[1])).OnHold()
		return strings.TrimSpace(fmt.Sprintf("%v %s", r.Verdict, r.Target()))
	case "route": // key as [down…]
		down := func(id scope.NodeID) bool { return strings.Contains(strings.Join(f[2:], " "), string(id)) }
		r := table.Route([]byte(text(0)), scope.NodeID(f[1]))
		if len(f) > 2 {
			r = table.RouteWithFallback([]byte(text(0)), scope.NodeID(f[1]), down)
		}
		return strings.TrimSpace(fmt.Sprintf("%v %s", r.Verdict, r.Target()))
	}
	t.Fatalf("unknown command %q", cmd)
	return ""
}
