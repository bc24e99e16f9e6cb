// Package registry owns raft: its stores, its transport, its life from bootstrap to shutdown, and the ways in.
// Propose brings a command into the log from any server, Confirm makes a read fresh, State is one atomic load.
//
// Everything that decides about ownership is in package fsm. What is decided here is only whether a command was
// applied, surely was not, or may have been.
package registry
