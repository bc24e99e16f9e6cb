package tidy

import (
	"go/ast"
	"slices"
	"testing"
)

// sleeps finds tests that wait by the wall clock: they are slow on a fast
// machine and fail on a slow one. Inside the function given to synctest.Test
// time is virtual and a sleep costs nothing, so it is allowed there, and only
// there: of a function called from it the rule cannot know where it runs.
func sleeps(all []*source) []finding {
	var found []finding
	for _, s := range all {
		name := s.localName("time")
		if !s.test || name == "" {
			continue
		}
		bubble := s.localName("testing/synctest")
		ast.Inspect(s.file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && bubble != "" && selected(call.Fun, bubble) == "Test" {
				return false
			}
			if selected(n, name) == "Sleep" {
				found = append(found, s.find(n.Pos(), "no sleep in tests",
					"wait for the thing itself (a channel, an index reached), or run the test inside synctest.Test",
					"time.Sleep in a test"))
			}
			return true
		})
	}
	return found
}

// skips finds tests that pass without having tested. What a test needs is
// either there, or the test fails and says how to get it; tests that need
// another program carry a build tag.
func skips(all []*source) []finding {
	var found []finding
	for _, s := range all {
		name := s.localName("testing")
		if !s.test || name == "" {
			continue
		}
		testers := testerNames(s.file, name)
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			for _, tester := range testers {
				if fn := selected(call.Fun, tester); slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, fn) {
					found = append(found, s.find(call.Pos(), "no skipped tests",
						"fail and say what is missing and how to get it, or put the test behind the build tag peers",
						"%s.%s lets a test pass that has tested nothing", tester, fn))
				}
			}
			return true
		})
	}
	return found
}

// testerNames are the names of all parameters of type *testing.T, B, F or
// testing.TB in the file.
func testerNames(file *ast.File, pkg string) []string {
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		field, ok := n.(*ast.Field)
		if !ok {
			return true
		}
		typ := field.Type
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		if slices.Contains([]string{"T", "B", "F", "TB"}, selected(typ, pkg)) {
			for _, id := range field.Names {
				if !slices.Contains(names, id.Name) {
					names = append(names, id.Name)
				}
			}
		}
		return true
	})
	return names
}

func TestNoSleep(t *testing.T) { report(t, sleeps(repo(t))) }

func TestNoSleepFinds(t *testing.T) {
	expect(t, sleeps(planted(t, `a/a_test.go
package a

import (
	"testing"
	"testing/synctest"
	clock "time"
)

func TestA(t *testing.T) {
	clock.Sleep(clock.Second)
	pause := clock.Sleep
	pause(1)
	synctest.Test(t, func(t *testing.T) {
		clock.Sleep(clock.Hour)
	})
	wait()
}

func wait() { clock.Sleep(1) }
`, "a/a.go\npackage a\nimport \"time\"\nfunc f() { time.Sleep(1) }")),
		"a/a_test.go:10", "a/a_test.go:11", "a/a_test.go:19")
}

func TestNoSkip(t *testing.T) { report(t, skips(repo(t))) }

func TestNoSkipFinds(t *testing.T) {
	expect(t, skips(planted(t, `a/a_test.go
package a

import "testing"

type reader struct{}

func (reader) Skip(int) {}

func TestA(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	var r reader
	r.Skip(3)
	t.Run("b", func(t *testing.T) { t.SkipNow() })
}

func BenchmarkB(b *testing.B) { b.Skipf("x %d", 1) }

func shared(tb testing.TB) { tb.Skip() }
`)),
		"a/a_test.go:11", "a/a_test.go:15", "a/a_test.go:18", "a/a_test.go:20")
}
