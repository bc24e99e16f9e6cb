package api

// NewToken asks for a token. Its secret stays with whoever drew it: only the hash is sent.
type NewToken struct {
	ID        string `json:"id" doc:"1 to 32 of a-z, 0-9 and -"`
	Hash      string `json:"hash" doc:"SHA-256 of the 32 random bytes of the secret, in hex"`
	Role      string `json:"role" enum:"viewer,node,operator,admin"`
	Node      string `json:"node,omitempty" doc:"The one node that a token of role node speaks for"`
	Prefix    string `json:"prefix,omitempty" doc:"Text form of the only prefix under which an operator's token changes scopes"`
	ExpiresMS int64  `json:"expires_ms,omitempty" doc:"Milliseconds since 1970; 0 is never"`
	First     bool   `json:"first,omitempty" doc:"Refuse unless no token was ever made"`
}

// Token is a token that is not revoked, without its secret.
type Token struct {
	ID        string `json:"id"`
	Role      string `json:"role"`
	Node      string `json:"node,omitempty"`
	Prefix    string `json:"prefix,omitempty"`
	ExpiresMS int64  `json:"expires_ms,omitempty"`
	Expired   bool   `json:"expired,omitempty" doc:"By the clock of the server that answers"`
	Created   uint64 `json:"created_index"`
	CreatedMS int64  `json:"created_ms"`
	CreatedBy string `json:"created_by,omitempty"`
}

// Tokens are all tokens, by id.
type Tokens struct {
	Index  uint64  `json:"index"`
	Tokens []Token `json:"tokens"`
}

// AuditRecord is one change that somebody asked for, refused ones included.
type AuditRecord struct {
	Number  uint64 `json:"number" doc:"Without gaps, from 1 on"`
	Index   uint64 `json:"index"`
	TimeMS  int64  `json:"time_ms" doc:"Wall clock of the leader, milliseconds since 1970"`
	Actor   string `json:"actor"`
	Source  string `json:"source,omitempty" doc:"Address of the client, as its server saw it"`
	Action  string `json:"action" doc:"As in the table of SECURITY.md"`
	Prefix  string `json:"prefix,omitempty" doc:"Text form"`
	Subject string `json:"subject,omitempty" doc:"Id of a node, session, server or token"`
	Move    string `json:"move,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Code    Code   `json:"code,omitempty" doc:"Of the refusal; empty: applied"`
}

// Audit is a page of the audit, oldest first.
type Audit struct {
	Index   uint64        `json:"index"`
	Oldest  uint64        `json:"oldest" doc:"Number of the oldest record that is kept; 0 if there is none"`
	Records []AuditRecord `json:"records"`
	Next    uint64        `json:"next,omitempty" doc:"Number to go on from; 0: that was all"`
}
