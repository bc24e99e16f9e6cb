// Package scopefile reads the files that declare nodes and scopes: our own
// TOML form, and the flat strings that kevy keeps under [cluster]. It is strict:
// what it does not understand is an error with the line it stands in.
package scopefile

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// MaxFile bounds a file in bytes: 4 Mi scopes at 128 bytes each would be 512 MiB,
// and nobody writes or reviews more than a part of that in one file.
const MaxFile = 256 << 20

// Node is a data node that the file names.
type Node struct {
	ID   string
	Addr string // host:port
	Line int    // where the file says so, from 1
}

// Scope is a scope that the file declares. Failover and Lease are "" where the
// file leaves them to their defaults.
type Scope struct {
	Prefix   scope.Prefix
	Writer   string
	Fallback string
	Failover string
	Lease    string
	Line     int
}

// File is what a scope file says, in the order of the file.
type File struct {
	Nodes  []Node
	Scopes []Scope
}

// Parse reads a scope file. name stands in messages. The error is an *api.Error
// whose detail begins with "name:line: "; the warnings are whole sentences.
func Parse(name string, data []byte) (File, []string, error) {
	if len(data) > MaxFile {
		return File{}, nil, &api.Error{Code: api.TooLarge,
			Detail: fmt.Sprintf("%s has %d bytes, the limit is %d; split it into files", name, len(data), MaxFile)}
	}
	r := reader{name: name}
	if err := r.read(data); err != nil {
		return File{}, nil, err
	}
	if err := r.settle(); err != nil {
		return File{}, nil, err
	}
	return r.file, r.warnings(), nil
}

// Batch is the file as the body of POST /v1/apply. prune also retires and
// removes what the file does not name; ifIndex, when not nil, refuses if nodes
// or scopes changed after it.
func (f File) Batch(prune bool, ifIndex *uint64) api.Batch {
	b := api.Batch{Prune: prune, IfIndex: ifIndex}
	for _, n := range f.Nodes {
		b.Nodes = append(b.Nodes, api.Node{ID: n.ID, Addr: n.Addr})
	}
	for _, s := range f.Scopes {
		b.Scopes = append(b.Scopes, api.Declare{Prefix: s.Prefix.Text(), Writer: s.Writer, Fallback: s.Fallback,
			Failover: s.Failover, Lease: s.Lease})
	}
	return b
}

// settle checks what can be wrong between two lines of the file.
func (r *reader) settle() error {
	seen := make(map[string]int, len(r.file.Nodes))
	for _, n := range r.file.Nodes {
		if first, ok := seen[n.ID]; ok {
			return r.errorf(n.Line, "node %q is given twice, first at line %d; keep one of them", n.ID, first)
		}
		seen[n.ID] = n.Line
	}
	sorted := slices.Clone(r.file.Scopes)
	slices.SortStableFunc(sorted, func(a, b Scope) int { return cmp.Compare(a.Prefix, b.Prefix) })
	// A prefix is followed at once by all that it contains, so neighbours are enough.
	for i := 1; i < len(sorted); i++ {
		a, b := sorted[i-1], sorted[i]
		if a.Prefix == b.Prefix {
			return r.errorf(b.Line, "scope %q is declared twice, first at line %d; keep one of them", b.Prefix, a.Line)
		}
		if a.Prefix.Overlaps(b.Prefix) {
			at, other := b, a
			if at.Line < other.Line {
				at, other = a, b
			}
			return &api.Error{Code: api.Overlap, ConflictsWith: other.Prefix.Text(),
				Detail: fmt.Sprintf("%s:%d: scope %q overlaps %q of line %d; a key would have two writers, so change one of the prefixes",
					r.name, at.Line, at.Prefix, other.Prefix, other.Line)}
		}
	}
	return nil
}
