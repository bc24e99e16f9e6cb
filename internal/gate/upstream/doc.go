// Package upstream is the Redis-protocol server behind a gate: the one gate that may stand before it, by a lock key; the proof
// that nothing of an earlier gate can execute there any more; connections that are ready for use; and the end of one, proved.
package upstream
