package fsm

import (
	"iter"

	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Bounds of the tables.
const (
	MaxScopes = 4 << 20  // scopes and tombstones: 0.7 GiB of heap with short prefixes, reckoned from a million
	MaxNodes  = 16 << 10 // far beyond any fleet that one registry serves
	MaxBatch  = 10_000   // items of one batch: applying it must not stall heartbeats
	MaxReason = 1_024    // bytes of a reason or detail that an operator gives
	MaxDigest = 128      // bytes of a manifest's digest
	MaxAddr   = 261      // bytes of host:port: a DNS name of 255 and a port
	// MaxRandom bounds a session id and an identity in bytes: 256 random bits in
	// hex; they stand in records and log lines.
	MaxRandom = 64
	// TokenHashLen is the length of a token's hash in bytes, that of SHA-256.
	TokenHashLen = 32
)

// Cluster is what the log holds about the cluster itself.
type Cluster struct {
	ID          string // made by the founding servers; "" until the first entry
	Incarnation uint64 // raised at every restore; with an epoch it is a fencing token
	Tag         string // tells two incarnations of the same number apart
	NextEpoch   uint64 // the epoch the next tenure gets; 0 means 1
	// Hold is set by a restore: no scope is served that is not released, until
	// every declared node has met the incarnation, and then only if the restore
	// was Complete: the admin stated that no other node was declared since the backup.
	Hold     bool
	Complete bool // only with Hold
	// Ended is how many moves ever ended. It follows from the table of moves: a node
	// counts on from there, and so knows when the end of a move may be forgotten.
	Ended uint64
}

// Node is a declared data node.
type Node struct {
	ID       scope.NodeID
	Addr     string  // host:port that MISDIRECTED names
	Identity string  // of the data that last held a session; "" if none ever did
	Session  Session // the live one, or the zero Session
	Expired  bool    // its last session ended by expiry, and none was opened since
	Fenced   bool    // an admin's word that the node with this Identity is off; void after its next session
	// The incarnation of the cluster that the node has met, 0 if none: that in
	// which it last opened a session.
	Incarnation uint64
	Tag         string
}

// Live reports whether the node has a session.
func (n Node) Live() bool { return n.Session.ID != "" }

// Session is the right of one process to speak for its node. The token that its
// successor takes it over with is not in it, as records are shown to everybody.
type Session struct {
	ID     string // random
	Opened uint64 // log index
	View   uint64 // index that the node's view is known to have reached
	// Concern is the index of the last change that concerns the node since the
	// session was opened, 0 if there was none. It is the leader's, which tells by
	// it a node that does not follow; it changes without an event.
	Concern uint64
}

// Tombstone is what a retired scope leaves: until its last owner is known to
// have let go, nobody else may be declared for a key under it.
type Tombstone struct {
	Prefix       scope.Prefix
	Owner        scope.NodeID
	Epoch        uint64
	RetiredIndex uint64
}

// Cleanup is an old copy of a slice that Node must delete, or somebody must say
// that it is gone.
type Cleanup struct {
	Node   scope.NodeID
	Prefix scope.Prefix
	Epoch  uint64 // of the tenure that ended
	Move   string // id of the move, or of the record of the force
	Since  uint64 // log index
}

// uses counts the records that name a node, which keep it from being removed.
// The scopes that it owns are among its scopes.
type uses struct{ scopes, owned, moves, tombstones, cleanups int }

type nodeRecord struct {
	Node
	token string // SHA-256 of the live session's token; "" without one
	uses  uses
}

// State is everything the log has built. It is an immutable value; the zero
// State is the one before the first entry.
type State struct {
	index       uint64
	base        uint64 // by how much index is above that of the raft log, since a restore
	configIndex uint64
	cluster     Cluster
	scopes      scope.Table
	nodes       scope.Index[*nodeRecord] // by id
	tombstones  scope.Index[Tombstone]
	moves       migration.Table
	cleanups    cleanupTable
	sessions    sessionTable
	heirs       heirTable
	unarmed     awaiting              // scopes that need a lease, until their owner knows it
	retired     awaiting              // tombstones, until their owner knows it
	unmet       scope.Index[struct{}] // ids of the nodes that have not met this incarnation
	dedup       ring
	staged      staging
	checked     Checked
	servers     []Server // by id; never changed in place
	tokens      tokenTable
	audit       auditTrail
	logFormat   uint64
}

// Index is the index of the last entry applied, refused commands included. It is
// that of the log, or above it since a restore put the state of a longer log in
// place; it never goes back.
func (s State) Index() uint64 { return s.index }

// LogIndex is the index in raft's log of the last entry applied.
func (s State) LogIndex() uint64 { return s.index - s.base }

// LogFormat is the format of the log that every server is known to know, 0 until
// the first one that the log says so of, which is 2. It never goes back.
func (s State) LogFormat() uint64 { return s.logFormat }

// ConfigIndex is the log index of the last change of nodes or scopes.
func (s State) ConfigIndex() uint64 { return s.configIndex }

// Cluster is the record of the cluster itself.
func (s State) Cluster() Cluster {
	c := s.cluster
	c.Ended = s.moves.Ended()
	return c
}

// Scopes is the ownership table.
func (s State) Scopes() scope.Table { return s.scopes }

// Moves is the table of moves.
func (s State) Moves() migration.Table { return s.moves }

// Route gives the verdict for key as seen from the node as. It takes no lock and
// does not allocate. It is of a pointer, as copying the state would take as long.
func (s *State) Route(key []byte, as scope.NodeID) scope.Routing {
	r := s.scopes.Route(key, as)
	if s.cluster.Hold {
		return r.OnHold()
	}
	return r
}

// Touch is [scope.Table.Touch] of the keys that Route is about to be asked for.
func (s *State) Touch(keys [][]byte) { s.scopes.Touch(keys) }

// Node returns the node with this id.
func (s State) Node(id scope.NodeID) (Node, bool) {
	n, ok := s.node(id)
	return n.Node, ok
}

func (s State) node(id scope.NodeID) (nodeRecord, bool) {
	if n, ok := s.nodes.Get(scope.Prefix(id)); ok {
		return *n, true
	}
	return nodeRecord{}, false
}

// Addr is the node's address, or its id if it is not declared.
func (s State) Addr(id scope.NodeID) string {
	if n, ok := s.node(id); ok && n.Addr != "" {
		return n.Addr
	}
	return string(id)
}

// Nodes yields the declared nodes in the order of their ids.
func (s State) Nodes() iter.Seq[Node] {
	return func(yield func(Node) bool) {
		for _, n := range s.nodes.All() {
			if !yield(n.Node) {
				return
			}
		}
	}
}

// NodesLen is the number of declared nodes.
func (s State) NodesLen() int { return s.nodes.Len() }

// TombstonesOver yields the tombstones whose prefix overlaps p.
func (s State) TombstonesOver(p scope.Prefix) iter.Seq[Tombstone] {
	return values(s.tombstones.Overlapping(p))
}

// CleanupsOver yields the pending cleanups whose prefix overlaps p, in no set
// order of nodes.
func (s State) CleanupsOver(p scope.Prefix) iter.Seq[Cleanup] { return s.cleanups.over(p) }

// CleanupsLen is the number of pending cleanups.
func (s State) CleanupsLen() int { return s.cleanups.len() }

func values[K, V any](seq iter.Seq2[K, V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range seq {
			if !yield(v) {
				return
			}
		}
	}
}
