package api

import (
	"errors"
	"net/http"
)

// Code names a kind of error. The same code travels in problem JSON and in log
// lines, and selects the HTTP status, the Redis error and the CLI's exit code.
type Code string

// The codes. Each is described where it is returned.
const (
	Invalid          Code = "INVALID"
	Unauthenticated  Code = "UNAUTHENTICATED"
	Forbidden        Code = "FORBIDDEN"
	NotFound         Code = "NOT_FOUND"
	Overlap          Code = "OVERLAP"
	Exists           Code = "EXISTS"
	NotOwner         Code = "NOT_OWNER"
	MoveInFlight     Code = "MOVE_IN_FLIGHT"
	WrongPhase       Code = "WRONG_PHASE"
	StaleEpoch       Code = "STALE_EPOCH"
	CleanupPending   Code = "CLEANUP_PENDING"
	NodeDown         Code = "NODE_DOWN"
	NodeUnknown      Code = "NODE_UNKNOWN"
	NodeInUse        Code = "NODE_IN_USE"
	SessionBusy      Code = "SESSION_BUSY"
	SessionExpired   Code = "SESSION_EXPIRED"
	IdentityChanged  Code = "IDENTITY_CHANGED"
	ManifestMismatch Code = "MANIFEST_MISMATCH"
	RequestExpired   Code = "REQUEST_EXPIRED"
	IndexChanged     Code = "INDEX_CHANGED"
	CrossScope       Code = "CROSS_SCOPE"
	MembersChanging  Code = "MEMBERS_CHANGING"
	NoMajority       Code = "NO_MAJORITY"
	Misdirected      Code = "MISDIRECTED"
	Quiesced         Code = "QUIESCED"
	LeaseLost        Code = "LEASE_LOST"
	Compacted        Code = "COMPACTED"
	Slow             Code = "SLOW"
	TooLarge         Code = "TOO_LARGE"
	Limit            Code = "LIMIT"
	NoLeader         Code = "NO_LEADER"
	Unavailable      Code = "UNAVAILABLE"
	Stale            Code = "STALE"
	Timeout          Code = "TIMEOUT"
	OutcomeUnknown   Code = "OUTCOME_UNKNOWN"
	Corrupt          Code = "CORRUPT"
	Internal         Code = "INTERNAL"
)

// Outcome says whether a mutation that failed may have been applied.
type Outcome string

// The outcomes of an error. An unknown one may be retried, with the same
// request id only.
const (
	NotApplied Outcome = "not applied"
	Unknown    Outcome = "unknown"
)

type row struct {
	status int
	exit   int
}

var table = map[Code]row{
	Invalid:          {http.StatusBadRequest, 2},
	Unauthenticated:  {http.StatusUnauthorized, 7},
	Forbidden:        {http.StatusForbidden, 7},
	NotFound:         {http.StatusNotFound, 3},
	Overlap:          {http.StatusConflict, 4},
	Exists:           {http.StatusConflict, 4},
	NotOwner:         {http.StatusConflict, 4},
	MoveInFlight:     {http.StatusConflict, 4},
	WrongPhase:       {http.StatusConflict, 4},
	StaleEpoch:       {http.StatusConflict, 4},
	CleanupPending:   {http.StatusConflict, 4},
	NodeDown:         {http.StatusConflict, 4},
	CrossScope:       {http.StatusConflict, 4},
	MembersChanging:  {http.StatusConflict, 4},
	NoMajority:       {http.StatusConflict, 4},
	Misdirected:      {http.StatusConflict, 4},
	Quiesced:         {http.StatusConflict, 4},
	LeaseLost:        {http.StatusConflict, 4},
	NodeUnknown:      {http.StatusConflict, 4},
	NodeInUse:        {http.StatusConflict, 4},
	SessionBusy:      {http.StatusConflict, 4},
	SessionExpired:   {http.StatusConflict, 4},
	IdentityChanged:  {http.StatusConflict, 4},
	ManifestMismatch: {http.StatusConflict, 4},
	RequestExpired:   {http.StatusConflict, 4},
	IndexChanged:     {http.StatusConflict, 4},
	Compacted:        {http.StatusGone, 4},
	Slow:             {http.StatusGone, 4},
	TooLarge:         {http.StatusRequestEntityTooLarge, 4},
	Limit:            {http.StatusTooManyRequests, 4},
	NoLeader:         {http.StatusServiceUnavailable, 5},
	Unavailable:      {http.StatusServiceUnavailable, 5},
	Stale:            {http.StatusServiceUnavailable, 5},
	Timeout:          {http.StatusGatewayTimeout, 6},
	OutcomeUnknown:   {http.StatusGatewayTimeout, 8},
	Corrupt:          {http.StatusInternalServerError, 9},
	Internal:         {http.StatusInternalServerError, 1},
}

// Known reports whether c is one of the codes above.
func (c Code) Known() bool { _, ok := table[c]; return ok }

// HTTPStatus is the status a reply with this code carries.
func (c Code) HTTPStatus() int {
	if r, ok := table[c]; ok {
		return r.status
	}
	return http.StatusInternalServerError
}

// RESP is the first word of a Redis error with this code, without the minus:
// Redis's own where it has one, as its clients act on them.
func (c Code) RESP() string {
	switch c {
	case Invalid:
		return "ERR"
	case Unauthenticated:
		return "NOAUTH"
	case Forbidden:
		return "NOPERM"
	case NoLeader, Unavailable, Stale:
		return "TRYAGAIN " + string(c) // clients know that this may be retried
	default:
		return string(c)
	}
}

// ExitCode is what the CLI exits with.
func (c Code) ExitCode() int {
	if r, ok := table[c]; ok {
		return r.exit
	}
	return 1
}

// Outcome is what the code says about a mutation that got it.
func (c Code) Outcome() Outcome {
	if c == OutcomeUnknown || c == Internal || !c.Known() {
		return Unknown
	}
	return NotApplied
}

// Error is the one error type that crosses the edges of the program. Detail
// names the value that is wrong and what to do; the other fields are for
// programs and are empty where they do not apply.
type Error struct {
	Code          Code     `json:"code"`
	Detail        string   `json:"detail"`
	Owner         string   `json:"owner,omitempty"`
	Addr          string   `json:"addr,omitempty"`     // host:port to turn to: of the owner, or of where the scope goes
	RetryMS       int64    `json:"retry_ms,omitempty"` // when to try again, at the earliest; 0 is no hint
	Epoch         uint64   `json:"epoch,omitempty"`
	Move          string   `json:"move,omitempty"`
	ConflictsWith string   `json:"conflicts_with,omitempty"` // text form of bytes
	Floor         uint64   `json:"floor,omitempty"`
	Index         uint64   `json:"index,omitempty"`
	Warnings      []string `json:"warnings,omitempty"`
}

// Error is "CODE: detail".
func (e *Error) Error() string { return string(e.Code) + ": " + e.Detail }

// Is makes errors.Is(err, &Error{Code: c}) true for every error of code c, on
// both sides of the wire.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// CodeOf is the code of err: that of the *Error it wraps, else Internal.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// Codes returns every code, for tests and documentation, in no set order.
func Codes() []Code {
	out := make([]Code, 0, len(table))
	for c := range table {
		out = append(out, c)
	}
	return out
}
