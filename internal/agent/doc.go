// Package agent is a data node's side of the ownership protocol.
//
// [Step] is a pure function from a state and an event to the next state and what
// is to be done: open a session, renew it, drain, ship, seal, promote, delete. It
// knows no clock, network or store; whoever runs it (the Go client, the gate, the
// simulation) carries out the [Effect]s and reports back what became of them.
//
// [Admission] is the other half, for the goroutines that write: it counts the
// writes under way and judges each of them by the [Rules] that Step last made,
// before it executes and again before it is acknowledged.
package agent
