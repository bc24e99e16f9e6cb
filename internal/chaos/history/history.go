// Package history holds what a chaos run saw: every operation of every client
// with its span and outcome, what each server's watch told, what the faults did
// and how the servers described themselves. It is the only thing the checkers
// look at. A history is written as JSON lines while the run goes on, and can be
// read again.
package history

import (
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// Kind is what an operation asks for.
type Kind string

// The kinds. Read is a linearizable read of one scope, Local a local one.
const (
	Declare Kind = "declare"
	Retire  Kind = "retire"
	Start   Kind = "start"
	Quiesce Kind = "quiesce"
	Shipped Kind = "shipped"
	Ready   Kind = "ready"
	Abort   Kind = "abort"
	Cleaned Kind = "cleaned"
	Read    Kind = "read"
	Local   Kind = "local"
)

// Mutates reports whether the kind changes the registry.
func (k Kind) Mutates() bool { return k != Read && k != Local }

// Outcome is how an operation ended.
type Outcome string

// The outcomes. Refused says something about the state: it forbade the
// operation. Failed surely had no effect and says nothing about the state.
// Unknown may take effect at any time after its call, or never.
const (
	OK      Outcome = "ok"
	Refused Outcome = "refused"
	Failed  Outcome = "failed"
	Unknown Outcome = "unknown"
)

// Op is one operation of one client on one server. Times are those of the
// run's clock, see [Log.Now].
type Op struct {
	N         int           `json:"n"`
	Client    string        `json:"client"`
	Server    string        `json:"server"`
	Kind      Kind          `json:"kind"`
	Prefix    string        `json:"prefix"`
	Arg       Arg           `json:"arg"`
	RequestID string        `json:"request_id,omitempty"`
	Tries     int           `json:"tries"` // all with the same request id
	Call      time.Duration `json:"call_ns"`
	Return    time.Duration `json:"return_ns"` // when the client stopped waiting, for an unknown outcome
	Outcome   Outcome       `json:"outcome"`
	Code      api.Code      `json:"code,omitempty"`
	Detail    string        `json:"detail,omitempty"` // of what failed or is unknown
	Got       Got           `json:"got"`
}

// Arg is what an operation was called with; what its kind does not take is empty.
type Arg struct {
	Writer   string `json:"writer,omitempty"`
	Fallback string `json:"fallback,omitempty"`
	Epoch    uint64 `json:"epoch,omitempty"` // the scope must have it; 0 is none
	Move     string `json:"move,omitempty"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	PreCopy  bool   `json:"precopy,omitempty"`
	Manifest string `json:"manifest,omitempty"` // its digest
}

// Got is what the reply said.
type Got struct {
	Seen   uint64 `json:"seen,omitempty"`   // index of the state that answered
	Leader string `json:"leader,omitempty"` // of a local read: whom the server took for the leader, "" for nobody
	Index  uint64 `json:"index,omitempty"`  // log index of the change; 0 if the reply does not tell
	// Epoch is that of the tenure the reply speaks of: of a flip the new one, of
	// a refusal the one the scope has.
	Epoch   uint64     `json:"epoch,omitempty"`
	Tenure  uint64     `json:"tenure,omitempty"` // of a step of a move: the epoch the move began under
	Move    string     `json:"move,omitempty"`   // of a refusal: the move that is in the way
	Changed bool       `json:"changed,omitempty"`
	Scope   *api.Scope `json:"scope,omitempty"` // what a read returned
}

// Seen is one line that a server's watch sent, or the note that the watch began
// anew with a snapshot because its place was no longer kept.
type Seen struct {
	Server string        `json:"server"`
	At     time.Duration `json:"at_ns"`
	Resync bool          `json:"resync,omitempty"`
	Item   api.WatchItem `json:"item"`
}

// Machine is the state of what a server runs in, as its keeper tells it.
type Machine struct {
	State string `json:"state"`          // running, paused or exited
	PID   int    `json:"pid"`            // 0 when it does not run
	Peer  string `json:"peer"`           // its address among the servers, or that of a data node; "" when it is cut off
	Node  bool   `json:"node,omitempty"` // it is a data node, and no server
}

// The names of the faults. What each is, and what shows it, is in docs/chaos.md.
const (
	Kill          = "kill"           // the leader ends without notice, and starts again
	KillFollower  = "kill-follower"  // so does another server
	KillMajority  = "kill-majority"  // so do the leader and another server, at once
	KillAll       = "kill-all"       // so do all servers
	Rolling       = "rolling"        // every server stops and starts again, one after the other
	Pause         = "pause"          // the leader stands still
	PauseFollower = "pause-follower" // another server does
	Partition     = "partition"      // the leader is cut off from the servers, not from its clients
	CutFollower   = "cut-follower"   // another server is
	DeafLeader    = "deaf-leader"    // the leader hears nothing of the others, and they hear it
	MuteLeader    = "mute-leader"    // the others hear nothing of the leader, and it hears them
	SlowLeader    = "slow-leader"    // all that the leader sends and gets takes long
	SlowAll       = "slow-all"       // all that servers send each other takes long
	HalfOpen      = "half-open"      // the leader ends while it is cut off: nobody is told that connections are gone
	Transfer      = "transfer"       // an operator makes another server the leader
	Readdress     = "readdress"      // two servers restart under other addresses
	Wipe          = "wipe"           // a server starts on an empty data directory, and later on its own again
	FlipLog       = "flip-log"       // a byte of a server's log differs when it starts
	FlipSnapshot  = "flip-snapshot"  // a byte of a server's newest snapshot does
	LossyAll      = "lossy-all"      // a tenth of all that servers send each other is lost, and sent again
	SlowDisk      = "slow-disk"      // the leader's writes take long
	FailingDisk   = "failing-disk"   // the leader's next write fails: it ends by itself, and starts again on a disk that works
	FullDisk      = "full-disk"      // the disks of all servers are nearly full
	Members       = "members"        // a fourth server joins, and leaves again
	KillOwner     = "kill-owner"     // a data node that owns a scope ends without notice, and starts again
	KillTarget    = "kill-target"    // a data node that a scope moves to does
	KillNodes     = "kill-nodes"     // all data nodes do, at once
	PauseOwner    = "pause-owner"    // a data node that owns a scope stands still
	CutOwner      = "cut-owner"      // a data node that owns a scope is cut off from all servers, not from its clients
)

// Way is one direction between two machines while a fault changed it.
type Way struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Cut     bool   `json:"cut,omitempty"`
	DelayMS int64  `json:"delay_ms,omitempty"` // how much longer all takes, or what is lost
	// How many bytes it had carried when the fault was in force, and when it was about to be undone.
	Active int64 `json:"active_bytes"`
	Heal   int64 `json:"heal_bytes"`
	// SlowestMS is the longest time that a byte took on it.
	SlowestMS int64 `json:"slowest_ms,omitempty"`
}

// Fault is one fault with what shows that it took effect. The facts are
// gathered while it lasts; the checkers judge them.
type Fault struct {
	Name    string             `json:"name"`
	Servers []string           `json:"servers"`   // those it struck
	Begin   time.Duration      `json:"begin_ns"`  // the first command was about to be given
	Active  time.Duration      `json:"active_ns"` // it was seen to be in force
	Heal    time.Duration      `json:"heal_ns"`   // it was about to be undone
	End     time.Duration      `json:"end_ns"`    // all servers were ready again and acknowledged changes
	Before  map[string]Machine `json:"before"`
	During  map[string]Machine `json:"during"`
	After   map[string]Machine `json:"after"`
	// Leader led before; Elected is whom the servers that were not struck agreed
	// on while the fault lasted, "" if they had no majority, and ElectedAt when
	// that was seen.
	Leader    string        `json:"leader"`
	Elected   string        `json:"elected,omitempty"`
	ElectedAt time.Duration `json:"elected_at_ns,omitempty"`
	// Silent says that a request sent to the struck server while the fault was
	// in force got no answer.
	Silent bool   `json:"silent,omitempty"`
	Ways   []Way  `json:"ways,omitempty"`   // that it changed
	Said   string `json:"said,omitempty"`   // line that the struck server has logged, which shows it
	Voters int    `json:"voters,omitempty"` // most that were seen while it lasted
	// Together says that other faults were in force at the same time: whether clients were served shows nothing then.
	Together bool   `json:"together,omitempty"`
	Error    string `json:"error,omitempty"` // why it could not be carried out as planned
	// Unhealed says that it was carried out, and that Error is what did not work again in time after it was undone.
	Unhealed bool `json:"unhealed,omitempty"`
}

// Sample is how a server described the cluster, hashes included.
type Sample struct {
	Server  string        `json:"server"`
	At      time.Duration `json:"at_ns"`
	Final   bool          `json:"final,omitempty"` // nothing was asked of the cluster any more
	Cluster api.Cluster   `json:"cluster"`
}

// Dump is what a node had of a scope at the end, when nobody wrote any more.
type Dump struct {
	Node    string          `json:"node"`
	Prefix  string          `json:"prefix"`
	Owner   bool            `json:"owner,omitempty"` // it owned the scope then
	Spare   bool            `json:"spare,omitempty"` // else it may have a copy: it is the fallback, or the writer that was taken over
	Epoch   uint64          `json:"epoch"`           // the scope's
	Records []writes.Record `json:"records,omitempty"`
}

// Setup is how the run was begun.
type Setup struct {
	Scenario string        `json:"scenario,omitempty"`
	Nodes    []string      `json:"nodes,omitempty"` // data nodes, whose stores are written to
	Seed     uint64        `json:"seed"`
	Duration time.Duration `json:"duration_ns"`
	Servers  []string      `json:"servers"`
	Target   string        `json:"target"` // what was tested, for people
	Started  time.Time     `json:"started"`
	Command  string        `json:"command,omitempty"` // that asks for the same again
	Program  Program       `json:"program"`           // that made the run
}

// Program is what a program was built from.
type Program struct {
	Version string `json:"version"` // of the module, or its commit; "devel" if the build does not tell
	Go      string `json:"go"`
}

// Wall is the run's clock at a wall clock in nanoseconds since 1970, of the same machine.
func (s Setup) Wall(ns int64) time.Duration { return time.Duration(ns - s.Started.UnixNano()) }

// Run is a whole history. Each list is in the order of recording: operations in
// that of their returns.
type Run struct {
	Setup   Setup
	Ops     []Op
	Seen    []Seen
	Faults  []Fault
	Samples []Sample
	Writes  []writes.Op // attempts of clients at the data nodes; their times are wall clock, see [Setup.Wall]
	Dumps   []Dump
}
