package sim

// mustHappen are the faults, transitions and refusals that a run of many seeds
// has to bring about, each at least once. One that never happened is one that
// nothing was learnt of.
var mustHappen = []string{
	// What was done to the world.
	"fault: a second machine under a node's id", "fault: bad network", "fault: disk of a node that owns nothing replaced", "fault: leader cut off",
	"fault: leader paused", "fault: node crashed", "fault: node cut off", "fault: node left with a server that is behind", "fault: node off for good", "fault: node left with a leader that was stopped",
	"fault: node paused", "fault: node shut down", "fault: node suspended for longer than its lease", "fault: nodes cut from each other",
	"fault: one direction cut", "fault: one incarnation number for two restores", "fault: record lost in staging", "fault: server crashed",
	"fault: server cut off", "fault: server paused", "fault: slow answers", "fault: watch streams broken", "write stuck in the store",
	"trap: leadership lost and won again between an expiry and its entry", "trap: a deadline passes while a renewal is being confirmed",
	"trap: a node is stopped between a renewal and its answer", "trap: a word comes after its node has got an empty disk",
	"trap: a stream comes again after its promotion", "fault: watchers too slow", "fault: sealing takes long", "fault: deleting takes long",
	"restore into a fresh cluster", "message late", "message lost", "message twice", "leadership transferred", "election", "backup", "restore",
	// What servers did.
	"entry of a deposed leader committed", "entry of a deposed leader lost", "proposal at a stale leader", "leader found its tick late",
	"directive Abort", "directive Ack", "directive Expire", "directive Quiesce", "snapshot read and log replayed", "request answered from the ring",
	"renewal granted", "renewal refused SESSION_EXPIRED", "renewal refused STALE", "report taken",
	"session expired", "takeover", "force", "command tried again",
	"Ack applied", "Expire applied", "FenceNode applied", "CloseSession applied", "Release applied", "Release NODE_DOWN", "Quiesce applied",
	"Declare CLEANUP_PENDING", "Declare MOVE_IN_FLIGHT", "Declare OVERLAP", "Declare SESSION_BUSY", "Declare EXISTS", "Retire applied", "Retire CLEANUP_PENDING",
	"Retire MOVE_IN_FLIGHT", "Force applied", "Force SESSION_BUSY", "StartMove CLEANUP_PENDING", "StartMove MOVE_IN_FLIGHT", "StartMove NODE_DOWN",
	"StartMove NOT_OWNER", "OpenSession IDENTITY_CHANGED", "OpenSession SESSION_BUSY", "OpenSession STALE_EPOCH", "Ready MANIFEST_MISMATCH",
	"Ready WRONG_PHASE", "Shipped WRONG_PHASE", "Abort WRONG_PHASE", "Cleaned NOT_FOUND", "Cleaned SESSION_EXPIRED", "CloseSession SESSION_EXPIRED",
	"move done: agent", "move done: assisted", "move done: forced", "move aborted: operator", "move aborted: session", "move aborted: source",
	"move aborted: timeout", "move aborted: window", "move aborted: mismatch", "move aborted: restored",
	// What nodes did.
	"session opened", "node closed its session", "pre-copy", "slice shipped", "ship failed", "slice sealed", "slice promoted", "slice discarded",
	"slice first served after a flip", "stream begun anew", "stream refused", "batch deleted", "delete stopped", "watch",
	"write acknowledged", "write of unknown outcome", "write refused LEASE_LOST", "write refused MISDIRECTED", "write refused QUIESCED",
	"open refused IDENTITY_CHANGED", "open refused SESSION_BUSY", "open refused STALE_EPOCH",
	"word Abort applied", "word Cleaned applied", "word CloseSession applied", "word Ready applied", "word Shipped applied",
	"promise ended by force", "promise ended by restore", "promise ended by takeover",
}

// Missing are those of what must happen that did not.
func Missing(counts map[string]int) []string {
	var out []string
	for _, what := range mustHappen {
		if counts[what] == 0 {
			out = append(out, what)
		}
	}
	return out
}
