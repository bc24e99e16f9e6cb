// Package sim runs the ownership protocol in a simulated world, one thread, from
// one seed: three servers, data nodes with disks and clocks of their own, clients
// that write, an operator who moves scopes, and faults of all of them and of the
// network between.
//
// The code under test is the real one: the state machine, the leader's ledger and
// Reconcile, a node's Step and Admission. Simulated is what they stand on: the
// log (with changes of leader, stale leaders, entries whose fate nobody knows),
// messages, time, disks. After every event the invariants of the protocol are
// checked; the first violation ends the run.
//
// The same seed gives the same run, event for event. What is done to the world is
// a plan of actions drawn before the run, so that a failing one can be shrunk by
// leaving actions out.
package sim
