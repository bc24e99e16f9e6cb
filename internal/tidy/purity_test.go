package tidy

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// pureFolders hold the packages that decide: the same inputs give the same
// result on every server, at every replay of the log, and in the simulation.
var pureFolders = []string{"scope", "migration", "internal/agent", "snapshot", "fsm", "internal/sim", "internal/gate/commands"}

// shell tells whether a file inside a pure folder is one of the thin shells
// that the table of folders names: the Raft adapter and the published state
// with its watchers.
func shell(s *source) bool {
	watch, _ := path.Match("fsm/watch*.go", s.path)
	return s.path == "fsm/raft.go" || watch
}

// pure tells whether the purity rules hold for the file. Tests are free: they
// read golden files and start goroutines.
func pure(s *source) bool {
	return slices.Contains(pureFolders, s.folder()) && !s.test && !shell(s)
}

// impureImports are packages through which the outside gets in, by path or
// parent path, with what to do instead.
var impureImports = map[string]string{
	"crypto/rand": "take ids and randomness as arguments",
	"log":         "return a typed event; logging subscribes to it outside",
	"math/rand":   "take ids and randomness as arguments; a simulation carries its own seeded generator",
	"net":         "leave addresses as text here; dialling and listening is a shell's work",
	"os":          "take bytes or an io.Reader; opening files is a shell's work",
	"runtime":     "decide nothing by the state of the runtime",
	"sync":        "a value has one owner here; publishing it is the work of fsm/raft.go",
	"syscall":     "take the answer as an argument; asking the system is a shell's work",
	"unsafe":      "write it without",
}

// pureSubpackages only parse and format, though their parents do I/O.
var pureSubpackages = []string{"net/netip", "net/url"}

// admission counts the writes that are between the router and the store. It is
// the only file of a pure package, besides the shells, that shares memory.
const admission = "internal/agent/admission.go"

func impure(all []*source) []finding {
	var found []finding
	for _, s := range all {
		if !pure(s) {
			continue
		}
		s.imports(func(spec *ast.ImportSpec, p string) {
			if p == "sync/atomic" || slices.Contains(pureSubpackages, p) {
				return // atomics have a rule of their own
			}
			for bad, instead := range impureImports {
				if below(p, bad) {
					found = append(found, s.find(spec.Pos(), "purity", instead,
						"%s is a pure package and may not import %s", s.folder(), p))
				}
			}
		})
	}
	return found
}

// atomics keeps sync/atomic out of the pure packages but for the two places
// made for it: the published state and the write-counting core.
func atomics(all []*source) []finding {
	var found []finding
	for _, s := range all {
		if s.test || shell(s) || s.path == admission || !slices.Contains(pureFolders, s.folder()) {
			continue
		}
		s.imports(func(spec *ast.ImportSpec, p string) {
			if p == "sync/atomic" {
				found = append(found, s.find(spec.Pos(), "atomics",
					"keep shared memory in fsm/raft.go (published state) or "+admission+" (write counts)",
					"%s is a pure package and may not import sync/atomic here", s.folder()))
			}
		})
	}
	return found
}

// clocks are the functions of package time that read a clock or wait for one.
// Durations, layouts and arithmetic stay allowed.
var clocks = []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}

func clockUse(all []*source) []finding {
	const mend = "take the time as an argument, as Envelope carries it"
	var found []finding
	for _, s := range all {
		name := s.localName("time")
		if !pure(s) || name == "" {
			continue
		}
		if name == "." {
			found = append(found, s.find(s.file.Package, "no clock", "import time under its name",
				"a dot import of time hides the reading of a clock"))
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if fn := selected(n, name); slices.Contains(clocks, fn) {
				found = append(found, s.find(n.Pos(), "no clock", mend,
					"%s is a pure package and may not use time.%s", s.folder(), fn))
			}
			return true
		})
	}
	return found
}

// selected returns x of the expression pkg.x, or "".
func selected(n ast.Node, pkg string) string {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if id, ok := sel.X.(*ast.Ident); ok && id.Name == pkg {
		return sel.Sel.Name
	}
	return ""
}

func goroutines(all []*source) []finding {
	var found []finding
	for _, s := range all {
		if !pure(s) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if stmt, ok := n.(*ast.GoStmt); ok {
				found = append(found, s.find(stmt.Pos(), "no goroutine",
					"return what is to be done; the shell around the package does it",
					"%s is a pure package and may not start a goroutine", s.folder()))
			}
			return true
		})
	}
	return found
}

func TestPureImports(t *testing.T) { report(t, impure(repo(t))) }

func TestPureImportsFinds(t *testing.T) {
	expect(t, impure(planted(t,
		"scope/a.go\npackage scope\nimport (\n\t\"errors\"\n\t\"math/rand/v2\"\n\t\"net\"\n\t\"net/http\"\n\t\"net/netip\"\n\t\"os\"\n\t\"sync\"\n\t\"unsafe\"\n)",
		"scope/a_test.go\npackage scope\nimport \"os\"",
		"fsm/raft.go\npackage fsm\nimport \"sync\"",
		"fsm/watch_list.go\npackage fsm\nimport \"sync\"",
		"fsm/state.go\npackage fsm\nimport lock \"sync\"",
		"internal/registry/a.go\npackage registry\nimport \"sync\"",
		"internal/agent/admission.go\npackage agent\nimport \"sync\"",
		"snapshot/a.go\npackage snapshot\nimport \"crypto/rand\"",
		"snapshot/b.go\npackage snapshot\nimport \"log/slog\"",
	)),
		"scope/a.go:4", "scope/a.go:5", "scope/a.go:6", "scope/a.go:8", "scope/a.go:9", "scope/a.go:10",
		"fsm/state.go:2", "internal/agent/admission.go:2", "snapshot/a.go:2", "snapshot/b.go:2")
}

func TestAtomics(t *testing.T) { report(t, atomics(repo(t))) }

func TestAtomicsFinds(t *testing.T) {
	const use = "\nimport \"sync/atomic\""
	expect(t, atomics(planted(t,
		"scope/table.go\npackage scope"+use,
		"scope/table_test.go\npackage scope"+use,
		"fsm/raft.go\npackage fsm"+use,
		"fsm/state.go\npackage fsm"+use,
		"internal/agent/admission.go\npackage agent"+use,
		"internal/agent/step.go\npackage agent"+use,
		"internal/registry/a.go\npackage registry"+use,
	)),
		"scope/table.go:2", "fsm/state.go:2", "internal/agent/step.go:2")
}

func TestNoClock(t *testing.T) { report(t, clockUse(repo(t))) }

func TestNoClockFinds(t *testing.T) {
	body := strings.Join([]string{"package fsm", "import \"time\"", "var second = time.Second",
		"func f() { _ = time.Now() }", "func g() { <-time.After(second) }", "func h(f func() time.Time) { f() }",
		"var clock = time.Now"}, "\n")
	expect(t, clockUse(planted(t,
		"fsm/a.go\n"+body,
		"fsm/b.go\npackage fsm\nimport clock \"time\"\nvar t0 = clock.Since(clock.Time{})",
		"fsm/c.go\npackage fsm\nimport . \"time\"\nvar s = Second",
		"fsm/a_test.go\n"+body,
		"internal/registry/a.go\n"+body,
	)),
		"fsm/a.go:4", "fsm/a.go:5", "fsm/a.go:7", "fsm/b.go:3", "fsm/c.go:1")
}

func TestNoGoroutine(t *testing.T) { report(t, goroutines(repo(t))) }

func TestNoGoroutineFinds(t *testing.T) {
	const body = "\nfunc f() {\n\tgo f()\n}"
	expect(t, goroutines(planted(t, "scope/a.go\npackage scope"+body, "scope/a_test.go\npackage scope"+body,
		"fsm/raft.go\npackage fsm"+body)),
		"scope/a.go:3")
}
