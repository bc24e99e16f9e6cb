package tidy

import (
	"go/ast"
	"go/token"
	"go/types"
	"testing"
)

// globals finds package-level variables of pure packages that something
// changes after they were made: assigned, counted, appended to, indexed into,
// deleted from, handed out by address, or used by a method that may change
// them. Error values, regular expressions and tables that are made once and
// only read are allowed. A change through a copy of a pointer, a map or a slice
// held in such a variable is not seen.
func globals(p *typed) []finding {
	var found []finding
	for _, s := range p.files {
		if !pure(s) {
			continue
		}
		mutations(p, s.file, func(at ast.Node, x ast.Expr, how string) {
			if v := p.global(x); v != nil {
				found = append(found, s.find(at.Pos(), "no mutable globals",
					"make it a field of a value that is passed in and returned, or a constant table that is only read",
					"the package-level variable %s.%s is %s", v.Pkg().Name(), v.Name(), how))
			}
		})
	}
	return found
}

// mutations calls each for every expression in the file through which
// something is changed.
func mutations(p *typed, file *ast.File, each func(at ast.Node, x ast.Expr, how string)) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, x := range n.Lhs {
					each(n, x, "assigned to")
				}
			}
		case *ast.IncDecStmt:
			each(n, n.X, "counted up or down")
		case *ast.RangeStmt:
			if n.Tok == token.ASSIGN {
				each(n, n.Key, "assigned to by range")
				each(n, n.Value, "assigned to by range")
			}
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				each(n, n.X, "handed out by address")
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 {
				if b, ok := p.info.Uses[id].(*types.Builtin); ok && (b.Name() == "delete" || b.Name() == "clear" || b.Name() == "copy") {
					each(n, n.Args[0], "changed by "+b.Name())
				}
			}
		case *ast.SelectorExpr:
			if p.takesAddress(n) {
				each(n, n.X, "used by the method "+n.Sel.Name+", which may change it")
			}
		}
		return true
	})
}

// takesAddress tells whether x.m is a method with a pointer receiver of an x
// that is not a pointer: the call passes the address of x.
func (p *typed) takesAddress(sel *ast.SelectorExpr) bool {
	s := p.info.Selections[sel]
	if s == nil || s.Kind() != types.MethodVal || s.Indirect() {
		return false
	}
	fn, ok := s.Obj().(*types.Func)
	if !ok {
		return false
	}
	_, wants := fn.Signature().Recv().Type().(*types.Pointer)
	_, is := s.Recv().Underlying().(*types.Pointer)
	return wants && !is
}

// global returns the package-level variable that x is, or is a part of, or nil.
func (p *typed) global(x ast.Expr) *types.Var {
	for {
		var id *ast.Ident
		switch e := x.(type) {
		case *ast.ParenExpr:
			x = e.X
			continue
		case *ast.IndexExpr:
			x = e.X
			continue
		case *ast.SliceExpr:
			x = e.X
			continue
		case *ast.StarExpr:
			x = e.X
			continue
		case *ast.SelectorExpr:
			if p.info.Selections[e] != nil {
				x = e.X // a field
				continue
			}
			id = e.Sel // a variable of another package
		case *ast.Ident:
			id = e
		default:
			return nil
		}
		v, ok := p.info.Uses[id].(*types.Var)
		if !ok || v.Pkg() == nil || v.Parent() != v.Pkg().Scope() {
			return nil
		}
		return v
	}
}

func TestNoMutableGlobals(t *testing.T) { eachPure(t, globals) }

func TestNoMutableGlobalsFinds(t *testing.T) {
	p := plantedTypes(t, `scope/a.go
package scope

import (
	"errors"
	"regexp"
)

type counter struct{ n int }

func (c *counter) add()    { c.n++ }
func (c counter) get() int { return c.n }

var (
	ErrBad = errors.New("bad")
	form   = regexp.MustCompile("a")
	table  = map[string]int{"a": 1}
	names  = []string{"a"}
	total  int
	count  counter
	shared = &counter{}
	_      = error(nil)
)

func reads(s string) (int, bool, error) {
	local := counter{}
	local.add()
	local.n = total
	total := total + table[s] + len(names) + count.get()
	total++
	for _, n := range names {
		_ = n
	}
	return total, form.MatchString(s), ErrBad
}

func changes() {
	ErrBad = nil
	table["b"] = 2
	delete(table, "a")
	names[0] = "b"
	total++
	total += 2
	count.add()
	count.n = 1
	shared.n = 2
	p := &total
	*p = 3
	for total = range names {
	}
	clear(names[:1])
	errors.ErrUnsupported = nil
	func() { (names) = nil }()
}
`)
	expect(t, globals(p),
		"scope/a.go:37", "scope/a.go:38", "scope/a.go:39", "scope/a.go:40", "scope/a.go:41", "scope/a.go:42",
		"scope/a.go:43", "scope/a.go:44", "scope/a.go:45", "scope/a.go:46", "scope/a.go:48", "scope/a.go:50",
		"scope/a.go:51", "scope/a.go:52")
}
