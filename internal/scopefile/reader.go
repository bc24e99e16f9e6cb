package scopefile

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// reader collects what the expressions of one file say.
type reader struct {
	name    string
	file    File
	flat    bool     // kevy's flat strings were used
	unknown []string // keys and sections that are not ours, in the order of the file
	lines   []int    // where they stand
	entry   entry    // the table of an array that is being filled
}

// entry is a [[cluster.node]] or [[cluster.scope]] before it is checked.
type entry struct {
	kind   string // "node", "scope" or "" for none
	line   int
	fields map[string]string
}

// fieldsOf are the keys each kind of entry has, those that must be there first.
func fieldsOf(kind string) (must, may []string) {
	if kind == "node" {
		return []string{"id", "addr"}, nil
	}
	return []string{"prefix", "writer"}, []string{"fallback", "failover", "lease"}
}

func (r *reader) errorf(line int, format string, args ...any) error {
	return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("%s:%d: %s", r.name, line, fmt.Sprintf(format, args...))}
}

// read walks the file's expressions. The whole file is decoded first, for the
// rules of TOML that a parser of single expressions does not see, such as a key
// that is set twice.
func (r *reader) read(data []byte) error {
	var whole map[string]any
	if err := toml.Unmarshal(data, &whole); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ := at.Position()
			return r.errorf(line, "not valid TOML: %s", strings.TrimPrefix(at.Error(), "toml: "))
		}
		return r.errorf(1, "not valid TOML: %s", err)
	}
	var p unstable.Parser
	p.Reset(data)
	var table []string
	lines := lineCounter{data: data, line: 1}
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.Comment {
			continue
		}
		path, line := keyPath(e, &lines)
		var err error
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			if err = r.finish(); err == nil {
				table = path
				err = r.open(path, e.Kind == unstable.ArrayTable, line)
			}
		default:
			err = r.set(slices.Concat(table, path), len(table), e.Value(), line)
		}
		if err != nil {
			return err
		}
	}
	if err := p.Error(); err != nil {
		return r.errorf(lines.line, "not valid TOML: %s", err)
	}
	if err := r.finish(); err != nil {
		return err
	}
	if !r.flat && len(r.unknown) > 0 {
		return r.errorf(r.lines[0], "%s is not known here; a scope file has [[cluster.node]] with id and addr, "+
			"[[cluster.scope]] with prefix, writer, fallback, failover and lease", r.unknown[0])
	}
	return nil
}

// lineCounter turns rising offsets into lines without counting from the start
// each time, which would be quadratic in a file of 100,000 scopes.
type lineCounter struct {
	data   []byte
	offset int
	line   int
}

func (c *lineCounter) at(offset int) int {
	for ; c.offset < offset && c.offset < len(c.data); c.offset++ {
		if c.data[c.offset] == '\n' {
			c.line++
		}
	}
	return c.line
}

func keyPath(e *unstable.Node, lines *lineCounter) (path []string, line int) {
	line = lines.line
	for it := e.Key(); it.Next(); {
		if len(path) == 0 {
			line = lines.at(int(it.Node().Raw.Offset))
		}
		path = append(path, string(it.Node().Data))
	}
	return path, line
}

// open begins a section.
func (r *reader) open(path []string, array bool, line int) error {
	if array && len(path) == 2 && path[0] == "cluster" && (path[1] == "node" || path[1] == "scope") {
		r.entry = entry{kind: path[1], line: line, fields: map[string]string{}}
		return nil
	}
	if !array && len(path) == 1 && path[0] == "cluster" {
		return nil
	}
	name := "[" + strings.Join(path, ".") + "]"
	if array {
		name = "[" + name + "]"
	}
	r.note(name, line)
	return nil
}

func (r *reader) note(name string, line int) {
	if len(r.unknown) > 0 && strings.HasPrefix(r.unknown[len(r.unknown)-1], "[") && !strings.HasPrefix(name, "[") && !strings.HasPrefix(name, "cluster.") {
		return // a key inside a section that is named already
	}
	if !slices.Contains(r.unknown, name) {
		r.unknown, r.lines = append(r.unknown, name), append(r.lines, line)
	}
}

// set takes one key with its value. path begins with the section, which has
// depth parts.
func (r *reader) set(path []string, depth int, v *unstable.Node, line int) error {
	if r.entry.kind != "" {
		return r.field(path[depth:], v, line)
	}
	if len(path) == 2 && path[0] == "cluster" {
		switch path[1] {
		case "scopes", "peers":
			return r.flatStrings(path[1], v, line)
		case "node", "scope":
			return r.errorf(line, "cluster.%s must be written as [[cluster.%s]], one section for each", path[1], path[1])
		}
	}
	if len(path) == 1 && path[0] == "cluster" {
		return r.errorf(line, "cluster must be written as sections: [cluster], [[cluster.node]], [[cluster.scope]]")
	}
	r.note(strings.Join(path, "."), line)
	return nil
}

func (r *reader) field(path []string, v *unstable.Node, line int) error {
	name := strings.Join(path, ".")
	must, may := fieldsOf(r.entry.kind)
	if !slices.Contains(must, name) && !slices.Contains(may, name) {
		return r.errorf(line, "key %q is not known in [[cluster.%s]]; it has %s", name, r.entry.kind,
			strings.Join(slices.Concat(must, may), ", "))
	}
	if v.Kind != unstable.String {
		return r.errorf(line, "%s must be a string in quotes", name)
	}
	r.entry.fields[name] = string(v.Data)
	return nil
}

// finish checks the entry that was being filled and keeps it.
func (r *reader) finish() error {
	e := r.entry
	r.entry = entry{}
	if e.kind == "" {
		return nil
	}
	must, _ := fieldsOf(e.kind)
	for _, name := range must {
		if _, ok := e.fields[name]; !ok {
			return r.errorf(e.line, "this [[cluster.%s]] has no %s; add it", e.kind, name)
		}
	}
	if e.kind == "node" {
		return r.addNode(Node{ID: e.fields["id"], Addr: e.fields["addr"], Line: e.line})
	}
	s := Scope{Writer: e.fields["writer"], Fallback: e.fields["fallback"], Failover: e.fields["failover"],
		Lease: e.fields["lease"], Line: e.line}
	return r.addScope(e.fields["prefix"], s)
}

func (r *reader) addNode(n Node) error {
	if err := scope.NodeID(n.ID).Check(); err != nil {
		return r.errorf(n.Line, "%s", err)
	}
	if err := checkAddr(n.Addr); err != nil {
		return r.errorf(n.Line, "node %s: %s", n.ID, err)
	}
	r.file.Nodes = append(r.file.Nodes, n)
	return nil
}

func (r *reader) addScope(prefix string, s Scope) error {
	p, err := scope.ParsePrefix(prefix)
	if err != nil {
		return r.errorf(s.Line, "prefix: %s", err)
	}
	s.Prefix = p
	if err := scope.NodeID(s.Writer).Check(); err != nil {
		return r.errorf(s.Line, "writer of %q: %s", prefix, err)
	}
	if s.Fallback != "" {
		if err := scope.NodeID(s.Fallback).Check(); err != nil {
			return r.errorf(s.Line, "fallback of %q: %s", prefix, err)
		}
	}
	if _, err := scope.ParseFailover(s.Failover); err != nil {
		return r.errorf(s.Line, "scope %q: %s", prefix, err)
	}
	if _, err := scope.ParseLease(s.Lease); err != nil {
		return r.errorf(s.Line, "scope %q: %s", prefix, err)
	}
	r.file.Scopes = append(r.file.Scopes, s)
	return nil
}

// warnings names what was skipped, in one sentence.
func (r *reader) warnings() []string {
	if len(r.unknown) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: skipped %s: with kevy's flat strings under [cluster] everything else in the file is kevy's own",
		r.name, strings.Join(r.unknown, ", "))}
}
