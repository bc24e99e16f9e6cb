package scope

import (
	"errors"
	"fmt"
	"iter"
)

// ErrDuplicatePrefix is wrapped by the error that refuses a second scope with
// the same prefix.
var ErrDuplicatePrefix = errors.New("duplicate scope prefix")

// OverlapError refuses two scopes of which one would silently shadow part of
// the other: the outer scope's writer would never see writes for Inner.
type OverlapError struct {
	Inner Prefix // the longer prefix
	Outer Prefix // the prefix that contains it
}

// Error names both prefixes.
func (e *OverlapError) Error() string {
	return fmt.Sprintf("overlapping scope prefixes: %q is contained by %q; declare only one of them",
		e.Inner, e.Outer)
}

// Table is the ownership table: scopes with prefixes that do not overlap. It is
// a persistent value; its zero value is empty. A change costs O(log n), a lookup
// takes no lock and does not allocate: at a million scopes it is one cache miss as
// a rule, unless prefixes are longer than 23 bytes.
type Table struct {
	index      Index[*Scope]
	hash       *hashTable // of what the index holds; nil where that is little
	noFallback int
}

// minHashed is from how many scopes on a table has a hash table: fewer are in one
// page of the index, which is as fast. One that had more keeps it down to the half,
// so that no change at the border makes it anew each time.
const minHashed = maxPage + 1

// NewTable returns the table of the given scopes. It refuses equal prefixes
// with [ErrDuplicatePrefix] and nested ones with an [*OverlapError].
func NewTable(scopes ...Scope) (Table, error) {
	var t Table
	for _, s := range scopes {
		var err error
		if t, err = t.With(s); err != nil {
			return Table{}, err
		}
	}
	return t, nil
}

// With returns the table that also holds s. It refuses s if its prefix overlaps
// one that is held.
func (t Table) With(s Scope) (Table, error) {
	if met, ok := t.Overlapping(s.Prefix); ok {
		if met.Prefix == s.Prefix {
			return t, fmt.Errorf("%w %q", ErrDuplicatePrefix, s.Prefix)
		}
		return t, overlap(s.Prefix, met.Prefix)
	}
	t.index = t.index.With(s.Prefix, &s)
	switch {
	case t.hash != nil:
		t.hash = t.hash.with(&s)
	case t.Len() >= minHashed:
		t.hash = hashed(t.index)
	}
	if s.Fallback == "" {
		t.noFallback++
	}
	return t, nil
}

func overlap(a, b Prefix) *OverlapError {
	if len(a) > len(b) {
		return &OverlapError{Inner: a, Outer: b}
	}
	return &OverlapError{Inner: b, Outer: a}
}

// Replace returns the table in which the scope with s's prefix is s. It reports
// false, and changes nothing, if that prefix is not held.
func (t Table) Replace(s Scope) (Table, bool) {
	old, ok := t.Get(s.Prefix)
	if !ok {
		return t, false
	}
	if old.Fallback == "" {
		t.noFallback--
	}
	s.Prefix = old.Prefix // the index has it: one copy of the bytes is enough
	t.index = t.index.With(s.Prefix, &s)
	if t.hash != nil {
		t.hash = t.hash.replace(&s)
	}
	if s.Fallback == "" {
		t.noFallback++
	}
	return t, true
}

// Without returns the table that holds no scope with exactly this prefix.
func (t Table) Without(p Prefix) Table {
	old, ok := t.Get(p)
	if !ok {
		return t
	}
	t.index = t.index.Without(p)
	switch {
	case t.hash == nil:
	case t.Len() < minHashed/2:
		t.hash = nil
	default:
		t.hash = t.hash.without(old)
	}
	if old.Fallback == "" {
		t.noFallback--
	}
	return t
}

// Get returns the scope declared with exactly this prefix.
func (t Table) Get(p Prefix) (*Scope, bool) { return t.index.Get(p) }

// Overlapping returns a scope whose prefix overlaps p, the outermost if there
// are several.
func (t Table) Overlapping(p Prefix) (*Scope, bool) {
	if s, ok := t.Lookup([]byte(p)); ok {
		return s, true
	}
	for s := range t.Under(p, "") {
		return s, true
	}
	return nil, false
}

// Lookup returns the scope whose prefix key starts with. In the index it is the
// last one that is not after key: what lies between a prefix and a key under it
// overlaps the prefix.
func (t Table) Lookup(key []byte) (*Scope, bool) {
	if t.hash != nil {
		if s, sure := t.hash.lookup(key); sure {
			return s, s != nil
		}
	}
	p, s, ok := t.index.floor(key)
	if !ok || !p.Matches(key) {
		return nil, false
	}
	return s, true
}

// Len is the number of scopes.
func (t Table) Len() int { return t.index.Len() }

// Scopes yields all scopes in the order of prefix bytes.
func (t Table) Scopes() iter.Seq[*Scope] { return t.Under("", "") }

// Under yields, in order, the scopes whose prefix starts with under and comes
// after the prefix after; an empty after leaves nothing out.
func (t Table) Under(under, after Prefix) iter.Seq[*Scope] {
	return func(yield func(*Scope) bool) {
		for _, s := range t.index.From(under, after) {
			if !yield(s) {
				return
			}
		}
	}
}

// WithoutFallback yields, in order, the scopes that take no writes while their
// writer is down because they declare no fallback.
func (t Table) WithoutFallback() iter.Seq[*Scope] {
	return func(yield func(*Scope) bool) {
		for s := range t.Scopes() {
			if s.Fallback == "" && !yield(s) {
				return
			}
		}
	}
}

// NoFallbackLen is the number of scopes that [Table.WithoutFallback] yields, in
// O(1).
func (t Table) NoFallbackLen() int { return t.noFallback }

// TableBuilder makes a [Table] of scopes that come in the order of their
// prefixes. Its zero value is one that has seen none.
type TableBuilder struct {
	index      Builder[*Scope]
	noFallback int
	last       *Scope
}

// Add takes the next scope and returns it as the table will hand it out. It
// refuses one that overlaps the one before, as [Table.With] does, and one that
// comes before it.
func (b *TableBuilder) Add(s Scope) (*Scope, error) {
	if b.last != nil {
		switch {
		case b.last.Prefix == s.Prefix:
			return nil, fmt.Errorf("%w %q", ErrDuplicatePrefix, s.Prefix)
		case b.last.Prefix.Contains(s.Prefix):
			return nil, overlap(b.last.Prefix, s.Prefix)
		}
	}
	if !b.index.Add(s.Prefix, &s) {
		return nil, fmt.Errorf("scope %q comes after %q; scopes must come in the order of their prefixes", s.Prefix, b.last.Prefix)
	}
	if s.Fallback == "" {
		b.noFallback++
	}
	b.last = &s
	return &s, nil
}

// Table returns the table of all that was added. The builder is not to be used
// after that.
func (b *TableBuilder) Table() Table {
	t := Table{index: b.index.Index(), noFallback: b.noFallback}
	if t.Len() >= minHashed {
		t.hash = hashed(t.index)
	}
	return t
}
