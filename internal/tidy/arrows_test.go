package tidy

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// arrow says what one folder may import.
type arrow struct {
	may      []string // folders of this repository; "*" is all of them
	tests    []string // what its tests may import besides, to run the real thing
	external []string // modules of others, by prefix; nil is any
}

// Modules of others that pure packages may use. None of them reads a clock,
// does I/O or starts a goroutine on its own.
const (
	protobuf = "google.golang.org/protobuf"
	raft     = "github.com/hashicorp/raft"
)

// arrows is the table of the architecture: a folder imports only what stands
// above it. A folder inside another follows the row of the outer one unless it
// has its own. Adapters (transport/*, client, internal/gate) do not know each
// other; cmd wires them.
var arrows = map[string]arrow{
	"scope":     {external: []string{}},
	"migration": {may: []string{"scope"}, external: []string{}},
	"internal/api": {may: []string{"scope", "migration"},
		external: []string{}},
	"internal/access": {may: []string{"scope", "internal/api"}, external: []string{}},
	"internal/pb":     {external: []string{protobuf}},
	"snapshot":        {may: []string{"internal/pb"}, external: []string{protobuf}},
	"fsm": {may: []string{"scope", "migration", "internal/access", "internal/api", "internal/pb", "snapshot"},
		external: []string{protobuf, raft}},
	"internal/agent": {may: []string{"scope", "migration", "internal/api"},
		external: []string{}},
	"internal/scopefile": {may: []string{"internal/api", "scope"}},
	// It owns the peer port too: which of the two ways of life the port serves,
	// calls only or raft as well, is decided by the bootstrap.
	"internal/registry": {may: []string{"fsm", "internal/access", "internal/certs", "internal/datasync", "snapshot", "internal/api", "internal/boottime", "internal/pb", "scope", "migration", "transport", "transport/peer"},
		tests: []string{"internal/certs/certstest", "internal/freeport"}},
	// Who somebody is by a certificate; and how a program shows its own, which is read anew when its files change.
	"internal/certs":           {may: []string{"internal/access", "internal/api"}, external: []string{"github.com/hashicorp/go-hclog"}},
	"internal/certs/certstest": {may: []string{"internal/access", "internal/certs"}},
	// The rule for addresses that every listener shares.
	"transport": {may: []string{"internal/api"}},
	"transport/peer": {may: []string{"transport", "internal/access", "internal/api", "internal/tcp"},
		tests: []string{"internal/freeport", "internal/registry", "fsm", "scope", "migration"}},
	// A state in the words of the API, the same on every front end.
	"internal/view": {may: []string{"fsm", "internal/access", "internal/api", "scope", "migration"}, external: []string{}},
	"transport/httpapi": {may: []string{"transport", "internal/access", "internal/certs", "internal/api", "internal/tcp", "internal/view", "fsm", "scope"},
		tests: []string{"internal/apitest", "internal/certs/certstest", "internal/registry", "client", "snapshot"}},
	"transport/resp": {external: []string{}},
	"transport/respapi": {may: []string{"transport", "transport/resp", "internal/access", "internal/certs", "internal/api", "internal/tcp", "internal/view", "fsm", "scope", "migration"},
		tests: []string{"internal/apitest", "internal/certs/certstest", "internal/registry"}},
	// What net has not.
	"internal/tcp": {external: []string{}},
	// The clock that leases are counted by.
	"internal/boottime": {external: []string{"golang.org/x/sys"}},
	// What was written, on the disk; and a small file that is changed by one sync.
	"internal/datasync": {external: []string{"golang.org/x/sys"}},
	"internal/inplace":  {may: []string{"internal/datasync"}, external: []string{}},
	// It shows certificates and tokens, and reads both anew, as the servers do.
	"client": {may: []string{"internal/api", "internal/access", "internal/certs", "internal/boottime", "internal/inplace", "scope", "migration", "internal/agent"},
		tests: []string{"fsm", "internal/freeport", "internal/registry", "transport/httpapi"}},
	"internal/gate": {may: []string{"client", "transport/resp"},
		tests: []string{"internal/api", "internal/freeport", "internal/registry", "scope", "transport/httpapi"}},
	// The store behind a gate, asked in a few commands of the gate's own.
	"internal/gate/upstream": {may: []string{"internal/tcp"}, tests: []string{"internal/freeport", "transport/resp"}, external: []string{}},
	"internal/gate/wire":     {external: []string{}, tests: []string{"transport/resp"}},
	// Which commands write, and which keys: a table, and Valkey's descriptions that it is made from.
	"internal/gate/commands": {external: []string{}},
	// The same programs directly and through a gate.
	"internal/gate/differ": {may: []string{"client", "internal/api", "internal/freeport", "internal/gate", "internal/gate/commands", "internal/gate/commands/valkey", "internal/gate/upstream",
		"internal/registry", "scope", "transport/httpapi"}, external: []string{}},
	"internal/gate/commands/generate": {may: []string{"internal/gate/commands/valkey"}, external: []string{}},
	// The keys of a scope on their way from one store to another.
	"internal/gate/slices": {may: []string{"client", "internal/api", "internal/gate/upstream", "internal/inplace", "scope"},
		tests: []string{"internal/freeport", "internal/registry", "transport/httpapi"}, external: []string{}},
	"internal/sim": {may: []string{"scope", "migration", "snapshot", "fsm", "internal/access", "internal/api", "internal/view", "internal/agent"},
		external: []string{}},
	"internal/sim/planted": {may: []string{"internal/overlay", "internal/process"}},
	// Ports for those who must know their address before they listen.
	"internal/freeport": {external: []string{}},
	// Programs of this repository, built with and without changes, as processes.
	"internal/overlay": {external: []string{}},
	"internal/process": {may: []string{"internal/overlay"}, external: []string{}},
	// One server, asked by who must know which one answers.
	"internal/direct": {may: []string{"internal/api"}, external: []string{}},
	// The services of compose files, ended and started again from outside.
	"internal/containers": {may: []string{"internal/access", "internal/certs", "internal/freeport"}, external: []string{}},
	// Connections that can be cut and slowed down, and clients of the example store:
	// what both crash and chaos are made of.
	"internal/link": {external: []string{}},
	"internal/load": {may: []string{"internal/api", "internal/crash/writes", "internal/overlay", "internal/process"}, external: []string{}},
	// Chaos runs: what happened is recorded in history, which the checkers judge
	// without knowing how it came about.
	"internal/chaos": {may: []string{"client", "internal/api", "internal/certs", "internal/chaos/check", "internal/chaos/fault", "internal/chaos/history",
		"internal/chaos/report", "internal/direct", "internal/chaos/target", "internal/chaos/timeline", "internal/chaos/workload", "internal/load", "internal/overlay"}},
	"internal/chaos/history": {may: []string{"internal/api", "internal/crash/writes"}},
	"internal/chaos/check": {may: []string{"internal/api", "internal/chaos/history", "internal/crash/writes"},
		tests: []string{"fsm", "internal/view"}},
	"internal/chaos/target":   {may: []string{"internal/access", "internal/certs", "internal/chaos/history", "internal/containers", "internal/freeport", "internal/link", "internal/load", "internal/process"}},
	"internal/chaos/workload": {may: []string{"client", "internal/api", "internal/chaos/history", "internal/crash/writes", "internal/direct", "internal/load", "scope"}},
	"internal/chaos/fault": {may: []string{"client", "internal/api", "internal/chaos/history", "internal/direct",
		"internal/chaos/target", "internal/link", "internal/load"}},
	"internal/chaos/timeline": {may: []string{"internal/chaos/history", "internal/crash/writes"}, tests: []string{"internal/api"}, external: []string{}},
	"internal/chaos/report": {may: []string{"internal/chaos/check", "internal/chaos/history", "internal/chaos/timeline", "internal/crash/writes"},
		tests: []string{"internal/api"}},
	"internal/flood": {may: []string{"client", "internal/api", "internal/crash"}, external: []string{}},
	"internal/demo":  {may: []string{"client", "internal/api", "internal/certs", "internal/crash"}},
	// Real server processes: started, killed, looked at.
	"internal/crash": {may: []string{"internal/access", "internal/api", "internal/certs", "internal/direct", "internal/freeport", "internal/process"},
		tests: []string{"transport/resp"}},
	// What clients were told, judged without knowing how it came about; the whole
	// system as processes; and the program that kills them.
	"internal/crash/writes": {external: []string{}},
	"internal/crash/rig": {may: []string{"client", "internal/api", "internal/crash", "internal/crash/writes", "internal/freeport", "internal/link", "internal/load", "internal/overlay", "internal/process"},
		external: []string{}},
	"internal/crash/matrix": {may: []string{"internal/crash/rig", "internal/crash/writes", "internal/load", "internal/overlay"}, external: []string{}},
	// Servers that are killed, and that are stopped and read from.
	"internal/crash/kills": {may: []string{"internal/api", "internal/crash", "internal/crash/writes", "internal/overlay", "internal/process"},
		external: []string{}},
	"internal/crash/stale": {may: []string{"internal/api", "internal/crash", "internal/direct", "internal/link", "internal/overlay", "internal/process"},
		external: []string{}},
	// Redis servers with gates before them, killed during moves; the demo tells a story on it.
	"internal/crash/gates":        {may: []string{"client", "internal/api", "internal/crash", "internal/crash/rig", "internal/freeport", "internal/process", "scope"}},
	"internal/crash/gates/matrix": {may: []string{"internal/crash/gates", "internal/crash/rig"}, external: []string{}},
	"internal/demo/redis":         {may: []string{"client", "internal/access", "internal/certs", "internal/containers", "internal/crash/gates", "internal/crash/rig"}, external: []string{}},
	// What the tests of several adapters share: a registry that answers from memory.
	"internal/apitest":   {may: []string{"internal/api", "scope", "migration", "fsm"}},
	"internal/tidy":      {external: []string{}},
	"examples":           {may: []string{"client", "scope"}},
	"cmd/scope-registry": {may: []string{"*"}},
}

// rowOf returns the row a folder follows: its own, or that of the nearest
// folder around it.
func rowOf(folder string) (arrow, string, bool) {
	for dir := folder; dir != "."; dir = path.Dir(dir) {
		if row, ok := arrows[dir]; ok {
			return row, dir, true
		}
	}
	return arrow{}, "", false
}

func importArrows(all []*source) []finding {
	const rule = "import arrows"
	var found []finding
	unknown := map[string]bool{}
	for _, s := range all {
		row, owner, ok := rowOf(s.folder())
		if !ok {
			if !unknown[s.folder()] {
				found = append(found, s.find(s.file.Package, rule,
					"give it a row in the table of internal/tidy/arrows_test.go, or put the code where it belongs",
					"folder %s is not in the table of who may import whom", s.folder()))
			}
			unknown[s.folder()] = true
			continue
		}
		s.imports(func(spec *ast.ImportSpec, p string) {
			if msg := refused(s, row, owner, p); msg != "" {
				found = append(found, s.find(spec.Pos(), rule,
					"let the caller hand the thing in (an interface declared here, a value), or move the code to the folder that may know both", "%s", msg))
			}
		})
	}
	return found
}

// refused says why the source, which follows the row of owner, may not import p,
// or "".
func refused(s *source, row arrow, owner, p string) string {
	rel, ours := strings.CutPrefix(p, module+"/")
	switch {
	case ours:
		may := row.may
		if s.test {
			may = append(slices.Clone(may), row.tests...)
		}
		if rel == owner || below(rel, s.folder()) || below(s.folder(), rel) && below(rel, owner) {
			return ""
		}
		if slices.Contains(may, "*") || slices.Contains(may, rel) {
			return ""
		}
		return owner + " may not import " + rel + "; it may import: " + list(may)
	case !strings.Contains(strings.Split(p, "/")[0], "."):
		return "" // standard library: purity has its own rule
	case s.test || row.external == nil:
		return ""
	case slices.ContainsFunc(row.external, func(m string) bool { return below(p, m) }):
		return ""
	}
	return owner + " may not use the module of " + p + "; it may use: " + list(row.external)
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing but the standard library"
	}
	return strings.Join(names, ", ")
}

// raftImports keeps the consensus library in the three places that own it, so
// that it can be replaced, and nothing else comes to depend on its types. The
// rule holds for tests too; fsm's tests of its adapter need the adapter's types.
func raftImports(all []*source) []finding {
	var found []finding
	for _, s := range all {
		if s.path == "fsm/raft.go" || s.path == "fsm/raft_test.go" ||
			below(s.folder(), "internal/registry") || below(s.folder(), "transport/peer") {
			continue
		}
		s.imports(func(spec *ast.ImportSpec, p string) {
			if isRaft(p) {
				found = append(found, s.find(spec.Pos(), "raft stays inside",
					"use fsm.FSM or internal/registry, which own it",
					"imports %s, which only fsm/raft.go, internal/registry and transport/peer may", p))
			}
		})
	}
	return found
}

// isRaft tells whether a package belongs to the consensus library or its store.
func isRaft(p string) bool { return below(p, raft) || strings.HasPrefix(p, raft+"-") }

// light are the packages that go into other people's programs, or beside a
// server: Raft must not come along, neither directly nor through another.
var light = []string{"client", "internal/agent", "internal/gate", "internal/demo", "internal/crash", "internal/chaos"}

func lightDependencies(folder string, deps []string) []finding {
	var found []finding
	for _, dep := range deps {
		if isRaft(dep) || strings.HasPrefix(dep, module+"/internal/registry") {
			found = append(found, finding{at: folder + ":1", rule: "light clients",
				what: folder + " depends, directly or through another package, on " + dep,
				mend: "go list -deps ./" + folder + " and `go mod why -m " + raft + "` show the way; cut it there"})
		}
	}
	return found
}

// goList runs `go list` in the repository's root.
func goList(args ...string) ([]byte, error) {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = root()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.Join(err, errors.New(strings.TrimSpace(stderr.String())))
	}
	return out, nil
}

// existing returns those of the folders that have Go files other than tests.
func existing(all []*source, folders []string) []string {
	var have []string
	for _, f := range folders {
		if slices.ContainsFunc(all, func(s *source) bool { return s.folder() == f && !s.test }) {
			have = append(have, f)
		}
	}
	return have
}

func TestImportArrows(t *testing.T) { report(t, importArrows(repo(t))) }

func TestImportArrowsFinds(t *testing.T) {
	expect(t, importArrows(planted(t,
		"scope/a.go\npackage scope\nimport \"github.com/scope-registry/scope-registry/migration\"",
		"scope/b.go\npackage scope\nimport \"errors\"",
		"scope/c.go\npackage scope\nimport \"github.com/hashicorp/go-hclog\"",
		"scope/c_test.go\npackage scope\nimport \"pgregory.net/rapid\"",
		"migration/a.go\npackage migration\nimport \"github.com/scope-registry/scope-registry/scope\"",
		"internal/registry/a.go\npackage registry\nimport \"github.com/scope-registry/scope-registry/transport/httpapi\"",
		"internal/registry/b.go\npackage registry\nimport \"github.com/scope-registry/scope-registry/transport/peer\"",
		"internal/registry/log/a.go\npackage log\nimport \"github.com/scope-registry/scope-registry/internal/registry\"",
		"transport/httpapi/a.go\npackage httpapi\n\nimport \"github.com/scope-registry/scope-registry/transport/resp\"",
		"cmd/scope-registry/main.go\npackage main\nimport \"github.com/scope-registry/scope-registry/transport/resp\"",
		"internal/newthing/a.go\npackage newthing",
		"internal/newthing/b.go\npackage newthing",
	)),
		"scope/a.go:2", "scope/c.go:2", "internal/registry/a.go:2", "transport/httpapi/a.go:3", "internal/newthing/a.go:1")
}

func TestRaftStaysInside(t *testing.T) { report(t, raftImports(repo(t))) }

func TestRaftStaysInsideFinds(t *testing.T) {
	expect(t, raftImports(planted(t,
		"fsm/raft.go\npackage fsm\nimport \"github.com/hashicorp/raft\"",
		"fsm/state.go\npackage fsm\nimport \"github.com/hashicorp/raft\"",
		"internal/registry/store.go\npackage registry\nimport \"github.com/hashicorp/raft-boltdb/v2\"",
		"transport/httpapi/a.go\npackage httpapi\nimport \"github.com/hashicorp/raft-boltdb/v2\"",
		"client/a_test.go\npackage client\nimport \"github.com/hashicorp/raft\"",
	)),
		"fsm/state.go:2", "transport/httpapi/a.go:2", "client/a_test.go:2")
}

func TestLightDependencies(t *testing.T) {
	for _, folder := range existing(repo(t), light) {
		out, err := goList("-deps", "./"+folder)
		if err != nil {
			t.Fatalf("go list of %s: %v", folder, err)
		}
		report(t, lightDependencies(folder, strings.Fields(string(out))))
	}
}

func TestLightDependenciesFinds(t *testing.T) {
	expect(t, lightDependencies("client", []string{"errors", module + "/scope", raft}), "client:1")
	expect(t, lightDependencies("client", []string{raft + "-boltdb/v2", module + "/internal/registry"}), "client:1", "client:1")
	expect(t, lightDependencies("client", []string{"errors", module + "/scope"}))
	// The command must answer as the test believes.
	out, err := goList("-json=ImportPath", "errors")
	if err != nil {
		t.Fatal(err)
	}
	var pkg struct{ ImportPath string }
	if err := json.Unmarshal(out, &pkg); err != nil || pkg.ImportPath != "errors" {
		t.Fatalf("go list errors: %s, %v", out, err)
	}
}
