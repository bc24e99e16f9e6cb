// Package slices moves the keys of a scope between two Redis-protocol servers, each behind a gate: it is the [client.Store] of a
// gate's session.
//
// The source is read with DUMP and PEXPIRETIME, and tells by CLIENT TRACKING what changes. The target has no place apart for
// what it stages: the staging area is the prefix itself, which [Store.Holds] keeps closed to clients from the first record to the
// promotion, or to the end of the wipe. What may be wiped is told by two records, and both are needed. A file in the gate's data
// directory, which a store that has gone back in time cannot bring back, says that the prefix was closed since the staging began
// and was not put in force. A marker in the store says that these keys are the staged ones; without it a process knows that
// only of what it has staged itself, in the same run of the store.
package slices
