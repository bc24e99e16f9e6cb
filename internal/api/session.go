package api

// Session is the right of one process to speak for its node.
type Session struct {
	ID     string `json:"id"`
	Opened uint64 `json:"opened_index"`
	// View is the index that the node's view is known to have reached, as the log
	// has it: it is noted only where something waits for it.
	View uint64 `json:"view_index"`
}

// NodeState is a data node with what the log knows of its process.
type NodeState struct {
	Node
	Identity    string   `json:"identity,omitempty"` // of the data that last held a session
	Session     *Session `json:"session,omitempty"`  // the live one
	Expired     bool     `json:"expired,omitempty"`  // its last session ended by expiry, and none was opened since
	Fenced      bool     `json:"fenced,omitempty"`   // an admin's word that the node with this identity is off
	Incarnation uint64   `json:"incarnation,omitempty"`
	Tag         string   `json:"incarnation_tag,omitempty"` // of the incarnation that it has met
}

// ClusterRecord is what the log holds about the cluster itself. It is the first
// record of a watch snapshot: views of two incarnations are not comparable.
type ClusterRecord struct {
	ID          string `json:"id"`
	Incarnation uint64 `json:"incarnation"`
	Tag         string `json:"incarnation_tag"`
	Hold        bool   `json:"hold,omitempty"` // since a restore no scope is served that is not released
	// Ended is how many moves ever ended, done, aborted or forced. Of a move that
	// ended more than 10,000 moves ago nothing is known any more.
	Ended uint64 `json:"moves_ended,omitempty"`
}

// OpenSession is the body of POST /v1/nodes/{id}/session. The caller draws the
// session's id and token before its first try, keeps both on disk, and sends the
// same again when the outcome is unknown.
type OpenSession struct {
	Identity      string `json:"identity"`                 // of the node's data
	Session       string `json:"session"`                  // random, never used before
	Token         string `json:"token"`                    // secret; only its hash is kept
	PreviousToken string `json:"previous_token,omitempty"` // of the session that is taken over
	Incarnation   uint64 `json:"incarnation"`
	Tag           string `json:"incarnation_tag"`
	View          uint64 `json:"view_index"` // that the node's view has reached
}

// Opened answers it.
type Opened struct {
	Session  string   `json:"session"`
	Opened   uint64   `json:"opened_index"` // the node admits nothing before its view has reached it
	RenewMS  int64    `json:"renew_ms"`     // how often to renew
	LeaseMS  int64    `json:"lease_ms"`     // how long a renewal lasts, from when it was sent
	Warnings []string `json:"warnings,omitempty"`
}

// Renewal is what a node says every few seconds.
type Renewal struct {
	Session string `json:"session"`
	View    uint64 `json:"view_index"`
	// As is the id of the node that asks, which has to hold the session; "" of somebody who may for any node.
	As string `json:"as,omitempty"`
}

// Renewed answers it: the lease lasts LeaseMS from when the renewal was sent.
type Renewed struct {
	Index   uint64 `json:"index"`
	LeaseMS int64  `json:"lease_ms"`
}

// Report says how far the source of a move is. It is not logged: the leader
// keeps the newest.
type Report struct {
	Move      string `json:"move"`
	Session   string `json:"session"` // of the source
	Keys      uint64 `json:"keys"`    // shipped so far
	Bytes     uint64 `json:"bytes"`
	KeysLeft  uint64 `json:"keys_left"` // as the source estimates
	BytesLeft uint64 `json:"bytes_left"`
	// Early: a little later much less will be left than now, so that the leader does not close the scope yet.
	Early bool   `json:"early,omitempty"`
	As    string `json:"as,omitempty"` // as in Renewal
}

// Progress is the newest report of a move, with what follows from it.
type Progress struct {
	Keys        uint64 `json:"keys"`
	Bytes       uint64 `json:"bytes"`
	KeysLeft    uint64 `json:"keys_left"`
	BytesLeft   uint64 `json:"bytes_left"`
	BytesPerSec uint64 `json:"bytes_per_second"`
	LeftMS      int64  `json:"left_ms"` // at that rate; -1 if it is not known
	AgeMS       int64  `json:"age_ms"`  // since the report came
}

// Leading is what only the leader knows.
type Leading struct {
	Leader   string              `json:"leader"`
	Leases   []LeaseState        `json:"leases"`   // in the order of session ids
	Progress map[string]Progress `json:"progress"` // by move
}

// LeaseState is one live session as the leader counts it.
type LeaseState struct {
	Session string `json:"session"`
	Node    string `json:"node"`
	View    uint64 `json:"view_index"`      // of the newest renewal; 0 if this leader has had none
	LeftMS  int64  `json:"left_ms"`         // until it expires without a renewal
	Blind   bool   `json:"blind,omitempty"` // renewals are refused: its view has stood still for a whole lease
}
