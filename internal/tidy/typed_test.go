package tidy

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The rules in this file need types: whether a range is over a map, and which
// package a variable belongs to. The types of imported packages come from the
// export data that `go list -export` leaves in the build cache, which is there
// already when the tests of those packages were built.

// typed is one type-checked package.
type typed struct {
	files []*source
	info  *types.Info
	pkg   *types.Package
}

// check type-checks the files of one folder.
func check(files []*source, imp types.Importer) (*typed, error) {
	p := &typed{files: files, info: &types.Info{
		Types:      map[ast.Expr]types.TypeAndValue{},
		Uses:       map[*ast.Ident]types.Object{},
		Selections: map[*ast.SelectorExpr]*types.Selection{},
	}}
	var asts []*ast.File
	for _, s := range files {
		asts = append(asts, s.file)
	}
	conf := types.Config{Importer: imp}
	var err error
	p.pkg, err = conf.Check(module+"/"+files[0].folder(), files[0].fset, asts, p.info)
	return p, err
}

// pureTypes holds the pure packages of the repository, type-checked once.
var pureTypes = sync.OnceValues(func() ([]*typed, error) {
	all, err := repository()
	if err != nil {
		return nil, err
	}
	folders := existing(all, pureFolders)
	if len(folders) == 0 {
		return nil, nil
	}
	args := []string{"-export", "-deps", "-json=ImportPath,Export,GoFiles"}
	for _, f := range folders {
		args = append(args, "./"+f)
	}
	listed, err := goList(args...)
	if err != nil {
		return nil, fmt.Errorf("the pure packages must build before they can be checked: %w", err)
	}
	exports, goFiles, err := readList(listed)
	if err != nil {
		return nil, err
	}
	imp := exportImporter(all[0].fset, exports)
	var done []*typed
	for _, folder := range folders {
		var files []*source
		for _, s := range all {
			if s.folder() == folder && slices.Contains(goFiles[module+"/"+folder], path.Base(s.path)) {
				files = append(files, s)
			}
		}
		p, err := check(files, imp)
		if err != nil {
			return nil, err
		}
		done = append(done, p)
	}
	return done, nil
})

// readList splits the output of go list into the files with export data and the
// names of the Go files, both by import path.
func readList(listed []byte) (exports map[string]string, goFiles map[string][]string, err error) {
	exports, goFiles = map[string]string{}, map[string][]string{}
	dec := json.NewDecoder(strings.NewReader(string(listed)))
	for {
		var pkg struct {
			ImportPath, Export string
			GoFiles            []string
		}
		if err := dec.Decode(&pkg); err == io.EOF {
			return exports, goFiles, nil
		} else if err != nil {
			return nil, nil, err
		}
		exports[pkg.ImportPath] = pkg.Export
		goFiles[pkg.ImportPath] = pkg.GoFiles
	}
}

func exportImporter(fset *token.FileSet, exports map[string]string) types.Importer {
	return importer.ForCompiler(fset, "gc", func(p string) (io.ReadCloser, error) {
		if exports[p] == "" {
			return nil, fmt.Errorf("no export data for %s", p)
		}
		return os.Open(exports[p])
	})
}

// orderFree marks a line on which the order of a map cannot reach a result.
var orderFree = regexp.MustCompile(`^//\s*order-free:\s*\S+`)

// marked returns the lines of the file that carry the mark, or stand right
// below one.
func marked(s *source) map[int]bool {
	lines := map[int]bool{}
	for _, group := range s.file.Comments {
		for _, c := range group.List {
			if orderFree.MatchString(c.Text) {
				lines[s.line(c.Pos())] = true
				lines[s.line(c.Pos())+1] = true
			}
		}
	}
	return lines
}

// mapOrder finds every place in a pure package where the order of a map can
// come out: range over a map, and the iterators of package maps unless they go
// straight into a sort. Go varies that order from run to run, and two servers
// that apply the same entry would differ.
func mapOrder(p *typed) []finding {
	const mend = "go over sorted keys (slices.Sorted(maps.Keys(m))) or over an ordered index; where the order cannot matter, " +
		"say why: // order-free: <reason>"
	var found []finding
	for _, s := range p.files {
		if !pure(s) {
			continue
		}
		lines := marked(s)
		sorted := map[ast.Node]bool{}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.RangeStmt:
				if isMap(p.info.TypeOf(n.X)) && !lines[s.line(n.Pos())] {
					found = append(found, s.find(n.Pos(), "map order", mend, "ranges over a map in a pure package"))
				}
			case *ast.CallExpr:
				if fn := p.function(n.Fun); strings.HasPrefix(fn, "slices.Sorted") && len(n.Args) > 0 {
					sorted[n.Args[0]] = true
				} else if slices.Contains([]string{"maps.Keys", "maps.Values", "maps.All"}, fn) &&
					!sorted[n] && !lines[s.line(n.Pos())] {
					found = append(found, s.find(n.Pos(), "map order", mend, "%s gives a map's order in a pure package", fn))
				}
			}
			return true
		})
	}
	return found
}

// function returns "package.Name" for a use of another package's function, or "".
func (p *typed) function(fun ast.Expr) string {
	switch f := fun.(type) {
	case *ast.IndexExpr:
		return p.function(f.X)
	case *ast.IndexListExpr:
		return p.function(f.X)
	case *ast.SelectorExpr:
		if obj, ok := p.info.Uses[f.Sel].(*types.Func); ok && obj.Pkg() != nil && obj.Signature().Recv() == nil {
			return obj.Pkg().Path() + "." + obj.Name()
		}
	}
	return ""
}

// isMap tells whether t, or each type a type parameter may stand for, is a map.
func isMap(t types.Type) bool {
	if t == nil {
		return false
	}
	if union, ok := t.(*types.Union); ok {
		for term := range union.Terms() {
			if !isMap(term.Type()) {
				return false
			}
		}
		return union.Len() > 0
	}
	switch u := t.Underlying().(type) {
	case *types.Map:
		return true
	case *types.Interface:
		for embedded := range u.EmbeddedTypes() {
			if isMap(embedded) {
				return true
			}
		}
	}
	return false
}

func eachPure(t *testing.T, rule func(*typed) []finding) {
	t.Helper()
	repo(t)
	all, err := pureTypes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		report(t, rule(p))
	}
}

// plantedTypes type-checks a planted package that may import a little of the
// standard library.
func plantedTypes(t *testing.T, texts ...string) *typed {
	t.Helper()
	listed, err := goList("-export", "-deps", "-json=ImportPath,Export,GoFiles", "errors", "maps", "slices", "regexp")
	if err != nil {
		t.Fatal(err)
	}
	exports, _, err := readList(listed)
	if err != nil {
		t.Fatal(err)
	}
	files := planted(t, texts...)
	p, err := check(files, exportImporter(files[0].fset, exports))
	if err != nil {
		t.Fatalf("planted package: %v", err)
	}
	return p
}

func TestMapOrder(t *testing.T) { eachPure(t, mapOrder) }

func TestMapOrderFinds(t *testing.T) {
	p := plantedTypes(t, `fsm/a.go
package fsm

import (
	"maps"
	"slices"
)

type names map[string]int

func f(m names, s []int) (sum int) {
	for range s {
	}
	for k := range m {
		_ = k
	}
	for _, v := range m { // order-free: a sum has no order
		sum += v
	}
	// order-free: a sum has no order
	for _, v := range m {
		sum += v
	}
	for _, v := range m { // order-free:
		sum += v
	}
	for k := range maps.Keys(m) {
		_ = k
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		_ = k
	}
	_ = slices.Collect(maps.Values(m))
	return sum
}

func g[M ~map[string]int](m M) {
	for range m {
	}
}
`, "fsm/raft.go\npackage fsm\n\nfunc shell(m map[int]int) {\n\tfor range m {\n\t}\n}")
	expect(t, mapOrder(p), "fsm/a.go:13", "fsm/a.go:23", "fsm/a.go:26", "fsm/a.go:32", "fsm/a.go:37")
}
