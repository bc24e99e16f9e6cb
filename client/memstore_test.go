package client

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/scope-registry/scope-registry/scope"
)

// memStore is a Store in memory. Records have to be kept apart from those who gave
// them, as they do with a real one.
type memStore struct {
	mu     sync.Mutex // guards what follows
	data   map[string]Record
	staged map[string]map[string]Record // by move
	busy   map[string]string            // by move: the method that runs
	fault  func(ctx context.Context, op, move string) error
	calls  map[string]int // by method
}

var (
	_ Store = (*memStore)(nil)
	_ Sizer = (*memStore)(nil)
)

func newMemStore(records ...Record) *memStore {
	m := &memStore{data: map[string]Record{}, staged: map[string]map[string]Record{}, busy: map[string]string{}, calls: map[string]int{}}
	for _, r := range records {
		m.data[string(r.Key)] = cloned(r)
	}
	return m
}

func cloned(r Record) Record {
	return Record{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value), Expires: r.Expires, Deleted: r.Deleted}
}

func (m *memStore) put(key, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data[key] = Record{Key: []byte(key), Value: []byte(value)}
}

func (m *memStore) del(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.data, key)
}

// called is how often a method was.
func (m *memStore) called(op string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[op]
}

// fails has every call go through f first.
func (m *memStore) fails(f func(ctx context.Context, op, move string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// begin notes that a method runs for a move; two at once are a breach of what
// stores are promised.
func (m *memStore) begin(ctx context.Context, op, move string) (end func(), err error) {
	m.mu.Lock()
	m.calls[op]++
	if was := m.busy[move]; was != "" {
		m.mu.Unlock()
		panic(fmt.Sprintf("%s of move %s while %s runs", op, move, was))
	}
	m.busy[move] = op
	fault := m.fault
	m.mu.Unlock()
	if fault != nil {
		err = fault(ctx, op, move)
	}
	if err == nil {
		err = ctx.Err()
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.busy, move)
	}, err
}

// under are the keys of a prefix, sorted.
func (m *memStore) under(p scope.Prefix) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.Sorted(maps.Keys(m.data))
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, string(p)) })
}

func (m *memStore) get(key string) (Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.data[key]
	return r, ok
}

func (m *memStore) Ship(ctx context.Context, s Slice, send func(Record) error) error {
	end, err := m.begin(ctx, "ship", s.Move)
	defer end()
	if err != nil {
		return err
	}
	var key, value []byte // used again for each: what send has is its own
	for _, k := range m.under(s.Prefix) {
		r, ok := m.get(k)
		if !ok {
			continue
		}
		key, value = append(key[:0], r.Key...), append(value[:0], r.Value...)
		if err := send(Record{Key: key, Value: value, Expires: r.Expires}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *memStore) Stage(ctx context.Context, s Slice, batch []Record) error {
	end, err := m.begin(ctx, "stage", s.Move)
	defer end()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.staged[s.Move] == nil {
		m.staged[s.Move] = map[string]Record{}
	}
	in := map[string]bool{}
	for _, r := range batch {
		if in[string(r.Key)] {
			panic(fmt.Sprintf("key %q is twice in a batch", r.Key))
		}
		in[string(r.Key)] = true
		if r.Deleted {
			delete(m.staged[s.Move], string(r.Key))
		} else {
			m.staged[s.Move][string(r.Key)] = r // kept as it is: allowed
		}
	}
	return nil
}

// stagedOf is what is staged for a move.
func (m *memStore) stagedOf(move string) map[string]Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.staged[move])
}

func (m *memStore) Verify(ctx context.Context, s Slice, each func(Record) error) error {
	end, err := m.begin(ctx, "verify", s.Move)
	defer end()
	if err != nil {
		return err
	}
	for _, r := range m.stagedOf(s.Move) { // order-free: into a manifest
		if err := each(r); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *memStore) Promote(ctx context.Context, s Slice) error {
	end, err := m.begin(ctx, "promote", s.Move)
	defer end()
	if err != nil {
		return err
	}
	for _, k := range m.under(s.Prefix) {
		m.del(k)
	}
	staged := m.stagedOf(s.Move)
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.Copy(m.data, staged)
	return nil
}

func (m *memStore) Discard(ctx context.Context, move string) error {
	end, err := m.begin(ctx, "discard", move)
	defer end()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.staged, move)
	return nil
}

func (m *memStore) Staged(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.staged)), nil
}

func (m *memStore) Clean(_ context.Context, p scope.Prefix) (bool, error) {
	keys := m.under(p)
	for _, k := range keys[:min(100, len(keys))] {
		m.del(k)
	}
	return len(keys) > 100, nil
}

func (m *memStore) Size(_ context.Context, p scope.Prefix) (keys, bytes uint64, err error) {
	for _, k := range m.under(p) {
		if r, ok := m.get(k); ok {
			keys, bytes = keys+1, bytes+sizeOf(r)
		}
	}
	return keys, bytes, nil
}

// manifest is that of what is staged for a move, or, with none, of a prefix.
func (m *memStore) manifest(p scope.Prefix, move string) Manifest {
	var t tally
	h := newHasher()
	if move != "" {
		for _, r := range m.stagedOf(move) { // order-free: into a manifest
			t.add(r, h.of(r))
		}
		return t.manifest()
	}
	for _, k := range m.under(p) {
		if r, ok := m.get(k); ok {
			t.add(r, h.of(r))
		}
	}
	return t.manifest()
}

// manyRecords are n under the scope, and some that are not.
func manyRecords(n, valueLen int) []Record {
	out := []Record{{Key: []byte("other:1"), Value: []byte("x")}, {Key: []byte("ap"), Value: []byte("x")}, {Key: []byte("app;"), Value: []byte("x")}}
	for i := range n {
		out = append(out, Record{Key: fmt.Appendf(nil, "app:%06d", i), Value: fmt.Appendf(bytes.Repeat([]byte("."), valueLen)[:max(0, valueLen-6)], "%06d", i)[:valueLen], Expires: int64(i % 3)})
	}
	return out
}

// slice are the records of the scope that a store has.
func (m *memStore) slice() map[string]Record {
	out := map[string]Record{}
	for _, k := range m.under(aMove.Prefix) {
		if r, ok := m.get(k); ok {
			out[k] = r
		}
	}
	return out
}

func sameRecords(a, b map[string]Record) bool {
	return maps.EqualFunc(a, b, func(x, y Record) bool {
		return bytes.Equal(x.Key, y.Key) && bytes.Equal(x.Value, y.Value) && x.Expires == y.Expires
	})
}
