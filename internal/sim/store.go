package sim

import (
	"fmt"
	"sort"
	"strings"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// records are keys with the id of the write that gave them their value.
type records map[string]int

// under are the keys of a prefix, sorted.
func (r records) under(p scope.Prefix) []string {
	var out []string
	for k := range r { // order-free: sorted below
		if strings.HasPrefix(k, string(p)) {
			out = append(out, k)
		}
	}
	sort.Strings(out)
	return out
}

func (r records) slice(p scope.Prefix) records {
	out := records{}
	for _, k := range r.under(p) {
		out[k] = r[k]
	}
	return out
}

// manifest sums up the records, in no order.
func (r records) manifest() migration.Manifest {
	var m migration.Manifest
	var digest uint64
	for k, v := range r { // order-free: the digest is a sum
		h := uint64(14695981039346656037)
		for i := range len(k) {
			h = (h ^ uint64(k[i])) * 1099511628211
		}
		h = (h ^ uint64(v)) * 0x9e3779b97f4a7c15
		digest += h ^ h>>29 // a sum has no order
		m.Keys++
		m.Bytes += uint64(len(k) + 8)
	}
	m.Digest = fmt.Sprintf("%016x", digest)
	return m
}

// store is a node's store on its disk. What was executed and not synced may be
// gone after a crash.
type store struct {
	data     records
	unsynced []undo
}

type undo struct {
	key string
	val int // 0 is none
}

func (s *store) put(key string, val int) {
	s.unsynced = append(s.unsynced, undo{key, s.data[key]})
	if val == 0 {
		delete(s.data, key)
	} else {
		s.data[key] = val
	}
}

func (s *store) sync() { s.unsynced = nil }

// crash takes back some of the newest writes that were not synced.
func (s *store) crash(r *rng) {
	for n := r.below(len(s.unsynced) + 1); n > 0; n-- {
		last := s.unsynced[len(s.unsynced)-1]
		s.unsynced = s.unsynced[:len(s.unsynced)-1]
		if last.val == 0 {
			delete(s.data, last.key)
		} else {
			s.data[last.key] = last.val
		}
	}
	s.unsynced = nil
}

// replace puts the slice in place of all that the store holds of the prefix.
func (s *store) replace(p scope.Prefix, slice records) {
	s.sync()
	for _, k := range s.data.under(p) {
		delete(s.data, k)
	}
	for k, v := range slice { // order-free: into a map
		s.data[k] = v
	}
}

// disk is what outlives a node's process.
type disk struct {
	identity string
	tokens   []string // that the next process may take the session over with, oldest first
	marks    map[string]agent.Mark
	sealed   map[string]records // by move
	store    *store
}

func newDisk(identity string) *disk {
	return &disk{identity: identity, marks: map[string]agent.Mark{}, sealed: map[string]records{}, store: &store{data: records{}}}
}

// held are the marks, sorted by move.
func (d *disk) held() []agent.Mark {
	var out []agent.Mark
	for _, m := range d.marks { // order-free: sorted below
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Move < out[j].Move })
	return out
}

// staging is a slice that arrives. It is lost with the process.
type staging struct {
	stream int
	data   records
	done   bool // complete; it takes no more
}
