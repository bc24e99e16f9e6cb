// Package scope answers which node may write a key.
//
// A [Scope] gives one key prefix to one writer. A [Table] holds scopes whose
// prefixes do not overlap and routes keys by the longest matching prefix. Both
// are values: a change makes a new Table and leaves every older one as it was,
// so a reader that holds a Table needs no lock and never sees half a change.
//
// The package is pure: no clock, no I/O, no globals.
package scope
