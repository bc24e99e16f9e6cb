package tidy

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// module is the path of the repository's Go module.
const module = "github.com/scope-registry/scope-registry"

// source is one parsed Go file.
type source struct {
	path      string // slash-separated, from the repository's root
	text      []byte
	file      *ast.File
	fset      *token.FileSet
	test      bool // a _test.go file
	generated bool // carries the "Code generated … DO NOT EDIT." line
}

// folder is where the file is, from the repository's root.
func (s *source) folder() string { return path.Dir(s.path) }

// line is the line of p in the file.
func (s *source) line(p token.Pos) int { return s.fset.Position(p).Line }

// find makes a finding at p.
func (s *source) find(p token.Pos, rule, mend, format string, args ...any) finding {
	return finding{at: fmt.Sprintf("%s:%d", s.path, s.line(p)), rule: rule, mend: mend,
		what: fmt.Sprintf(format, args...)}
}

// imports calls each for every import of the file, with the unquoted path.
func (s *source) imports(each func(spec *ast.ImportSpec, path string)) {
	for _, spec := range s.file.Imports {
		each(spec, strings.Trim(spec.Path.Value, "\"`"))
	}
}

// localName is the name under which the file uses the imported package want
// (the last element of its path, or what the import renames it to), or "".
func (s *source) localName(want string) string {
	name := ""
	s.imports(func(spec *ast.ImportSpec, p string) {
		switch {
		case p != want:
		case spec.Name != nil:
			name = spec.Name.Name
		default:
			name = path.Base(p)
		}
	})
	return name
}

// finding is one place where a rule is broken.
type finding struct {
	at   string // file:line
	rule string
	what string
	mend string
}

func (f finding) String() string {
	return fmt.Sprintf("%s: [%s] %s\n\tto mend: %s", f.at, f.rule, f.what, f.mend)
}

// report fails the test with every finding.
func report(t *testing.T, found []finding) {
	t.Helper()
	for _, f := range found {
		t.Error(f)
	}
}

// expect is the self-test of a rule: found must be at exactly the places given
// as "file:line", in any order.
func expect(t *testing.T, found []finding, places ...string) {
	t.Helper()
	var got []string
	for _, f := range found {
		if f.rule == "" || f.what == "" || f.mend == "" {
			t.Errorf("finding without rule, matter or mend: %+v", f)
		}
		got = append(got, f.at)
	}
	slices.Sort(got)
	slices.Sort(places)
	if !slices.Equal(got, places) {
		t.Errorf("the rule found something else than planted\n got: %v\nwant: %v", got, places)
		report(t, found)
	}
}

// root is the repository's root: the nearest folder upwards with a go.mod.
var root = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			panic("no go.mod above the test's folder: run the tests inside the repository")
		}
		dir = up
	}
})

// repository holds all Go files of the module, parsed once for all tests.
var repository = sync.OnceValues(func() ([]*source, error) {
	var all []*source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root(), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != root() && foreign(p, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root(), p)
		if err != nil {
			return err
		}
		s, err := parse(fset, filepath.ToSlash(rel), text)
		all = append(all, s)
		return err
	})
	return all, err
})

// foreign tells whether a folder is not part of the module, by the rules of the
// go command: hidden, underscored, test data, or with a go.mod of its own.
func foreign(dir, name string) bool {
	if name == "testdata" || name == "vendor" || name[0] == '.' || name[0] == '_' {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func parse(fset *token.FileSet, name string, text []byte) (*source, error) {
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &source{path: name, text: text, file: file, fset: fset,
		test: strings.HasSuffix(name, "_test.go"), generated: ast.IsGenerated(file)}, nil
}

// repo returns the repository's sources, or fails the test.
func repo(t *testing.T) []*source {
	t.Helper()
	all, err := repository()
	if err != nil {
		t.Fatalf("reading the repository's Go files: %v", err)
	}
	if len(all) == 0 {
		t.Fatalf("no Go files below %s", root())
	}
	return all
}

// planted parses sources made for a self-test. Each text is "path\ncode…": the
// first line is the path, so that the line numbers of findings are those of the
// code, counted from 1.
func planted(t *testing.T, texts ...string) []*source {
	t.Helper()
	var all []*source
	fset := token.NewFileSet()
	for _, text := range texts {
		name, code, _ := bytes.Cut([]byte(text), []byte("\n"))
		s, err := parse(fset, string(name), code)
		if err != nil {
			t.Fatalf("planted source: %v", err)
		}
		all = append(all, s)
	}
	return all
}

// below tells whether the folder is dir or inside it.
func below(folder, dir string) bool {
	return folder == dir || strings.HasPrefix(folder, dir+"/")
}
