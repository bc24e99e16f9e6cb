// Package fsm is the replicated state machine: the commands that a log entry
// may hold, the one transition that applies them, and the state they build.
//
// [State] is an immutable value. [State.Apply] is pure: no clock, no I/O, no
// globals, so that every server that applies the same log holds the same state.
// All semantic checks of the registry are here and nowhere else; a check made
// before a command is in the log could be outrun by another command.
//
// Only raft.go and watch.go, the adapter to hashicorp/raft and the change list
// that watchers follow, are not pure.
package fsm
