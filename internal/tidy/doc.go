// Package tidy holds the rules of this repository as tests: who may import
// whom, what the pure packages must not touch, how long a file and a function
// may be, what a test must not do.
//
// A rule is a function from parsed sources to findings. Each rule has two
// tests: one runs it over the repository, the other feeds it sources made to
// break it, so that a rule that finds nothing any more is noticed. A finding
// names file and line, the rule, and how to mend it. There is no list of
// exceptions: an exception is part of the rule, with its reason beside it.
//
// The rules speak of the folders that exist; a folder that is not there yet
// breaks none of them.
package tidy
