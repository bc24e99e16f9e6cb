package api

import "time"

// Names of the headers that replies and requests carry.
const (
	HeaderIndex       = "X-Registry-Index"        // index of the state that answered
	HeaderLeader      = "X-Registry-Leader"       // id of the leader, "" if not known
	HeaderLastContact = "X-Registry-Last-Contact" // milliseconds since the leader was heard
	HeaderRequestID   = "Idempotency-Key"         // request id of a mutation
	HeaderActor       = "X-Registry-Actor"        // who asks, recorded with moves
	HeaderReason      = "X-Registry-Reason"       // why a mutation is asked for, recorded with it
	HeaderPatience    = "X-Registry-Patience"     // milliseconds that the client waits for the reply
)

// Node is a data node.
type Node struct {
	ID   string `json:"id"`
	Addr string `json:"addr"` // host:port that MISDIRECTED names
}

// Scope is one declared scope as /v1 shows it. Prefixes are in the text form
// for bytes.
type Scope struct {
	Prefix      string `json:"prefix"`
	Writer      string `json:"writer"`
	Fallback    string `json:"fallback,omitempty"`
	Owner       string `json:"owner"`
	OwnerAddr   string `json:"owner_addr,omitempty"`
	Epoch       uint64 `json:"epoch"`
	Incarnation uint64 `json:"incarnation"`
	Failover    string `json:"failover"`
	Lease       string `json:"lease"`
	Armed       bool   `json:"armed"`
	State       string `json:"state"`              // "owned", "quiesced" or, never in a watch, "held": there the cluster's record tells
	Released    bool   `json:"released,omitempty"` // served although the cluster holds since a restore
	Target      string `json:"target,omitempty"`   // node the scope moves to, while quiesced
	Move        string `json:"move,omitempty"`     // id of the running move
	Changed     uint64 `json:"changed_index"`
	// Settled is whether the view of every live session has reached the last
	// change. It is absent where nobody asked, and where no leader answered.
	Settled *bool `json:"settled,omitempty"`
	// Cleanups are the nodes that still have to delete an old copy.
	Cleanups []Cleanup `json:"cleanups,omitempty"`
}

// Declare is the body of PUT /v1/scope, and a scope of a batch.
type Declare struct {
	Prefix       string `json:"prefix,omitempty"` // in a batch; the query parameter names it otherwise
	Writer       string `json:"writer"`
	Fallback     string `json:"fallback,omitempty"`
	Failover     string `json:"failover,omitempty"` // auto (default) or manual
	Lease        string `json:"lease,omitempty"`    // auto (default), always or never
	SourceFenced string `json:"source_fenced,omitempty"`
	// SourceFencedIdentity is of the data that the word is about; empty if that
	// node never had a session.
	SourceFencedIdentity string `json:"source_fenced_identity,omitempty"`
}

// Batch is the body of POST /v1/apply: all of it in one log entry, or nothing.
type Batch struct {
	Nodes   []Node    `json:"nodes,omitempty"`
	Scopes  []Declare `json:"scopes,omitempty"`
	Prune   bool      `json:"prune,omitempty"`
	IfIndex *uint64   `json:"if_index,omitempty"`
	DryRun  bool      `json:"dry_run,omitempty"`
}

// Plan is what a batch would change, from a dry run. Op is "+", "~" or "-".
type Plan struct {
	Index   uint64       `json:"index"` // give it as if_index to apply just this
	Changes []PlanChange `json:"changes"`
	Kept    []string     `json:"kept,omitempty"` // what prune leaves, and why
}

// PlanChange is one line of a plan.
type PlanChange struct {
	Op     string `json:"op"`
	Kind   string `json:"kind"` // "node" or "scope"
	Name   string `json:"name"` // node id, or prefix in text form
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Applied answers a mutation.
type Applied struct {
	Index    uint64   `json:"index"`
	Epoch    uint64   `json:"epoch,omitempty"`
	Move     string   `json:"move,omitempty"`
	Changed  uint64   `json:"changed,omitempty"` // how many records a batch changed
	Warnings []string `json:"warnings,omitempty"`
}

// Applying is the answer of POST /v1/apply: Plan for a dry run, else Applied.
type Applying struct {
	*Applied
	Plan *Plan `json:"plan,omitempty"`
}

// Route is the verdict for a key.
type Route struct {
	Verdict string `json:"verdict"` // OWNED, MISDIRECTED, QUIESCED or UNKNOWN; "" without as
	Reply   string `json:"reply"`   // the line a store answers: "OK", "MISDIRECTED writer is host:port", …
	Key     string `json:"key"`
	Prefix  string `json:"prefix,omitempty"`
	Owner   string `json:"owner,omitempty"`
	Addr    string `json:"addr,omitempty"` // address of the owner, or of the move's target
	Epoch   uint64 `json:"epoch,omitempty"`
	Target  string `json:"target,omitempty"`
	State   string `json:"state,omitempty"`
	Index   uint64 `json:"index"`
}

// Explain tells why a key routes as it does.
type Explain struct {
	Route
	Scope   *Scope   `json:"scope,omitempty"`
	Move    *Move    `json:"move,omitempty"`
	Why     string   `json:"why"`
	Lagging []string `json:"lagging,omitempty"` // servers that have not applied the scope's last change
	Unseen  []string `json:"unseen,omitempty"`  // nodes with a session whose view has not reached it; absent if no leader answered
}

// Manifest sums up the records of a slice, in any order.
type Manifest struct {
	Keys   uint64 `json:"keys"`
	Bytes  uint64 `json:"bytes"`
	Digest string `json:"digest,omitempty"`
}

// StartMove is the body of POST /v1/moves.
type StartMove struct {
	ID            string `json:"id,omitempty"` // made by the server if empty
	Prefix        string `json:"prefix"`
	From          string `json:"from"`
	To            string `json:"to"`
	ExpectedEpoch uint64 `json:"expected_epoch,omitempty"`
	Mode          string `json:"mode,omitempty"` // agent (default) or assisted
	PreCopy       bool   `json:"precopy,omitempty"`
	WindowMS      uint64 `json:"window_ms,omitempty"`
	TimeoutMS     uint64 `json:"timeout_ms,omitempty"`
	Reason        string `json:"reason,omitempty"`
}

// Stamp is when a move entered a phase: log index and the leader's wall clock.
type Stamp struct {
	Phase  string `json:"phase"`
	Index  uint64 `json:"index"`
	TimeMS int64  `json:"time_ms"`
}

// Move is one MOVE-SCOPE, running or finished.
type Move struct {
	ID         string    `json:"id"`
	Prefix     string    `json:"prefix"`
	From       string    `json:"from"`
	To         string    `json:"to"`
	Phase      string    `json:"phase"` // copying, quiescing, shipped, done, aborted
	Mode       string    `json:"mode"`  // agent, assisted, forced
	PreCopy    bool      `json:"precopy,omitempty"`
	Epoch      uint64    `json:"epoch"`
	NewEpoch   uint64    `json:"new_epoch,omitempty"`
	WindowMS   uint64    `json:"window_ms"`
	TimeoutMS  uint64    `json:"timeout_ms"`
	Actor      string    `json:"actor,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Shipped    *Manifest `json:"shipped,omitempty"`
	Ready      *Manifest `json:"ready,omitempty"`
	Stamps     []Stamp   `json:"stamps"`
	Cause      string    `json:"cause,omitempty"`    // why it aborted: operator, source, target, session, window, timeout, forced, mismatch
	Detail     string    `json:"detail,omitempty"`   // the reason that was given
	QuiescedMS int64     `json:"quiesced_ms"`        // how long the scope took no writes
	Progress   *Progress `json:"progress,omitempty"` // of the source's shipping, as the leader last heard it
	Cleanup    string    `json:"cleanup,omitempty"`  // "pending" while the source still has its copy
	Waiting    *Waiting  `json:"waiting,omitempty"`  // absent when nothing is left to do
}

// Waiting is what has to happen before nothing is left to do.
type Waiting struct {
	For       string     `json:"for"`      // who has to do what
	SinceMS   int64      `json:"since_ms"` // leader's wall clock, milliseconds since 1970
	Deadlines []Deadline `json:"deadlines,omitempty"`
	Safe      []Choice   `json:"safe_now"` // what an operator may do now
}

// Deadline is what happens by itself, AtMS on the leader's wall clock at the earliest.
type Deadline struct {
	AtMS int64  `json:"at_ms"`
	What string `json:"what"`
}

// Choice is something an operator may do, with its consequence.
type Choice struct {
	Do   string `json:"do"` // wait, abort, force, cleaned
	Then string `json:"then"`
}

// Cleanup is an old copy that its node has to delete.
type Cleanup struct {
	Node   string `json:"node"`
	Prefix string `json:"prefix"`
	Epoch  uint64 `json:"epoch"`
	Move   string `json:"move,omitempty"`
}

// Force is the body of POST /v1/force.
type Force struct {
	Prefix        string `json:"prefix"`
	To            string `json:"to"`
	ExpectedEpoch uint64 `json:"expected_epoch"`
	AcceptLoss    bool   `json:"accept_loss"`
	SourceFenced  string `json:"source_fenced,omitempty"`
	// SourceFencedIdentity is as in Declare.
	SourceFencedIdentity string `json:"source_fenced_identity,omitempty"`
	Reason               string `json:"reason,omitempty"`
}

// Member is one server of the cluster as the answering server sees it.
type Member struct {
	ID        string `json:"id"`
	Peer      string `json:"peer"`
	HTTP      string `json:"http,omitempty"`
	Role      string `json:"role"` // leader, follower, candidate, non-voter; "" if not reached
	Voter     bool   `json:"voter"`
	Index     uint64 `json:"index"`
	LogIndex  uint64 `json:"log_index"` // last entry of its raft log
	Behind    uint64 `json:"behind"`    // entries that its log lacks of the longest one that was reached
	Term      uint64 `json:"term"`
	StateHash string `json:"state_hash,omitempty"`
	Version   string `json:"version,omitempty"`
	LogFormat int    `json:"log_format,omitempty"` // rises with releases that bring commands which older ones stop at
	Ready     bool   `json:"ready"`
	// CheckHash is the hash of its state after the entry of CheckIndex, the last that was marked to be compared.
	CheckIndex uint64 `json:"check_index,omitempty"`
	CheckHash  string `json:"check_hash,omitempty"`
	// DiskFree is the space left for its data directory; if DiskLow it is too little for commands. DiskStalledMS is for how
	// long a write has not returned, once that is too long.
	DiskFree      uint64 `json:"disk_free_bytes,omitempty"`
	DiskLow       bool   `json:"disk_low,omitempty"`
	DiskStalledMS uint64 `json:"disk_stalled_ms,omitempty"`
	Waits         string `json:"waits,omitempty"` // of the leader: why a change of the servers has not gone on yet
	Error         string `json:"error,omitempty"`
}

// Storage is what a server knows of what it stands on.
type Storage struct {
	Free    uint64        // bytes left for the data directory
	Limit   uint64        // below which no command is taken
	Low     bool          // there is, or was a moment ago, less than that
	Stalled time.Duration // for how long a write has not returned, once that is too long; else 0
	Checked uint64        // log index of the last state that was found to be that of the majority
}

// ServerChange is a server on its way into the cluster or out of it.
type ServerChange struct {
	ID    string `json:"id"`
	Addr  string `json:"addr"`            // host:port that the other servers dial
	Phase string `json:"phase"`           // joining, leaving; member or gone when it is over
	Since uint64 `json:"since"`           // log index
	Waits string `json:"waits,omitempty"` // why it has not gone on yet, as the leader said last
}

// Cluster is the status of the cluster.
type Cluster struct {
	ID          string   `json:"id"`
	Incarnation uint64   `json:"incarnation"`
	Tag         string   `json:"incarnation_tag"`
	Hold        string   `json:"hold,omitempty"` // since when no scope is served that is not released, and what ends that; absent if none is held
	Leader      string   `json:"leader,omitempty"`
	Self        string   `json:"self"`
	Index       uint64   `json:"index"`
	ConfigIndex uint64   `json:"config_index"`
	Scopes      int      `json:"scopes"`
	NoFallback  int      `json:"no_fallback"`
	Nodes       int      `json:"nodes"`
	Moves       int      `json:"running_moves"`
	Cleanups    int      `json:"pending_cleanups"`
	Members     []Member `json:"members"`

	Change *ServerChange `json:"change,omitempty"` // under way
}

// Change is one change of one record in a watch item. Exactly one record field
// is set; Op is "put" or "delete".
type Change struct {
	Cause     string         `json:"cause"` // declare, retire, start, quiesce, shipped, flip, abort, force, …
	Op        string         `json:"op"`
	Node      *NodeState     `json:"node,omitempty"`
	Cluster   *ClusterRecord `json:"cluster,omitempty"`
	Scope     *Scope         `json:"scope,omitempty"`
	Move      *Move          `json:"move,omitempty"`
	Cleanup   *Cleanup       `json:"cleanup,omitempty"`
	Tombstone *Tombstone     `json:"tombstone,omitempty"`
}

// Tombstone is what a retired scope leaves until its last owner is known to
// have let go.
type Tombstone struct {
	Prefix  string `json:"prefix"`
	Owner   string `json:"owner"`
	Epoch   uint64 `json:"epoch"`
	Retired uint64 `json:"retired_index"`
}

// WatchItem is one line of the watch stream: all changes of one index, a
// heartbeat, a snapshot, or the error that ends the stream.
type WatchItem struct {
	Type  string `json:"type"` // snapshot, change, heartbeat, error
	Index uint64 `json:"index"`
	// Incarnation and Tag are those of the cluster at Index: an index says nothing
	// about another history of it.
	Incarnation uint64   `json:"incarnation,omitempty"`
	Tag         string   `json:"incarnation_tag,omitempty"`
	Changes     []Change `json:"changes,omitempty"`
	More        bool     `json:"more,omitempty"` // a snapshot goes on in the next line
	Error       *Error   `json:"error,omitempty"`
}
