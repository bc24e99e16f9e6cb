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
// a rule, unless prefixes are longer than 31 bytes.
type Table struct {
	held *contents // nil if it is empty
}

// contents is what a table holds; it is never changed. It is one object as a look-up would
// have to carry each part of it.
type contents struct {
	index      Index[keyed]
	hash       hashTable // of what the index holds; empty if that is one scope, whose prefix may be empty
	noFallback int
}

// edit is a copy of what the table holds, which may be changed.
func (t Table) edit() *contents {
	if t.held == nil {
		return &contents{}
	}
	out := *t.held
	return &out
}

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
	c := t.edit()
	c.index = c.index.With(s.Prefix, keyed{&s})
	switch {
	case c.hash.buckets > 0:
		c.hash = c.hash.with(&s)
	case c.index.Len() > 1:
		c.hash = hashed(c.index)
	}
	if s.Fallback == "" {
		c.noFallback++
	}
	return Table{c}, nil
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
	c := t.edit()
	s.Prefix = old.Prefix // the index has it: one copy of the bytes is enough
	c.index = c.index.With(s.Prefix, keyed{&s})
	if c.hash.buckets > 0 {
		c.hash = c.hash.replace(&s)
	}
	if old.Fallback == "" {
		c.noFallback--
	}
	if s.Fallback == "" {
		c.noFallback++
	}
	return Table{c}, true
}

// Without returns the table that holds no scope with exactly this prefix.
func (t Table) Without(p Prefix) Table {
	old, ok := t.Get(p)
	if !ok {
		return t
	}
	if t.Len() == 1 {
		return Table{}
	}
	c := t.edit()
	c.index = c.index.Without(p)
	if c.index.Len() == 1 {
		c.hash = hashTable{}
	} else {
		c.hash = c.hash.without(old)
	}
	if old.Fallback == "" {
		c.noFallback--
	}
	return Table{c}
}

// Get returns the scope declared with exactly this prefix.
func (t Table) Get(p Prefix) (*Scope, bool) {
	s, ok := t.index().Get(p)
	return s.Scope, ok
}

// index has the scopes in order.
func (t Table) index() Index[keyed] {
	if t.held == nil {
		return Index[keyed]{}
	}
	return t.held.index
}

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

// Lookup returns the scope whose prefix key starts with.
func (t Table) Lookup(key []byte) (*Scope, bool) {
	s := t.held.find(key)
	return s, s != nil
}

// Len is the number of scopes.
func (t Table) Len() int { return t.index().Len() }

// Scopes yields all scopes in the order of prefix bytes.
func (t Table) Scopes() iter.Seq[*Scope] { return t.Under("", "") }

// Under yields, in order, the scopes whose prefix starts with under and comes
// after the prefix after; an empty after leaves nothing out.
func (t Table) Under(under, after Prefix) iter.Seq[*Scope] {
	return func(yield func(*Scope) bool) {
		for _, s := range t.index().From(under, after) {
			if !yield(s.Scope) {
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
func (t Table) NoFallbackLen() int {
	if t.held == nil {
		return 0
	}
	return t.held.noFallback
}

// TableBuilder makes a [Table] of scopes that come in the order of their
// prefixes. Its zero value is one that has seen none.
type TableBuilder struct {
	index      Builder[keyed]
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
	if !b.index.Add(s.Prefix, keyed{&s}) {
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
	c := &contents{index: b.index.Index(), noFallback: b.noFallback}
	switch n := c.index.Len(); {
	case n == 0:
		return Table{}
	case n > 1:
		c.hash = hashed(c.index)
	}
	return Table{c}
}
