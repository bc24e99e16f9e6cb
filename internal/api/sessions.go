package api

// Sessions answers GET /v1/sessions.
type Sessions struct {
	Index    uint64         `json:"index"`
	Leader   string         `json:"leader,omitempty"`    // who counts the leases; empty if it did not answer
	NoLeases string         `json:"no_leases,omitempty"` // why no lease is shown
	Sessions []SessionState `json:"sessions"`            // in the order of session ids
}

// SessionState is one live session with its lease. Its view is the newest that
// the log or the leader knows.
type SessionState struct {
	Node string `json:"node"`
	Session
	LeftMS *int64 `json:"left_ms,omitempty"` // until it expires without a renewal; absent if the leader did not say
	Blind  bool   `json:"blind,omitempty"`   // its renewals are refused, as its view stands still
}
