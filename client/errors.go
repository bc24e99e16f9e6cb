package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Code says what kind of error an [*Error] is.
type Code = api.Code

// The codes that a user of the guard, of a mirror or of a store meets. Others are
// those of the registry's calls; the reference of the API describes all of them.
const (
	CodeInvalid        = api.Invalid        // the caller's mistake
	CodeNotFound       = api.NotFound       // no scope, node or move is declared as was asked for
	CodeMisdirected    = api.Misdirected    // see ErrMisdirected
	CodeQuiesced       = api.Quiesced       // see ErrQuiesced
	CodeLeaseLost      = api.LeaseLost      // see ErrLeaseLost
	CodeCrossScope     = api.CrossScope     // see ErrCrossScope
	CodeOutcomeUnknown = api.OutcomeUnknown // see ErrOutcomeUnknown
	CodeUnavailable    = api.Unavailable    // nothing was done; it may succeed later, or elsewhere
	CodeTimeout        = api.Timeout        // the time was over; of a mutation: nothing was done
	CodeInternal       = api.Internal       // none of the others; what became of a mutation is unknown
)

// CodeOf is the code of err: that of the [*Error] it wraps, else CodeInternal.
func CodeOf(err error) Code { return api.CodeOf(err) }

// What a write that the guard does not acknowledge gets, for errors.Is. The error
// itself is an [*Error], for errors.As: it has the owner's id and address, and
// with QUIESCED a hint when to try again.
var (
	// ErrMisdirected: another node owns the key. Nothing was written.
	ErrMisdirected = &Error{Code: api.Misdirected}
	// ErrQuiesced: the scope is moving and nobody writes it; it soon has an owner
	// again. Nothing was written.
	ErrQuiesced = &Error{Code: api.Quiesced}
	// ErrLeaseLost: this node owns the key, but has no session or no valid lease now.
	// Nothing was written.
	ErrLeaseLost = &Error{Code: api.LeaseLost}
	// ErrCrossScope: the keys are not all in one scope. Nothing was written; split it.
	ErrCrossScope = &Error{Code: api.CrossScope}
	// ErrOutcomeUnknown: the write was executed, or may have been, and must not be
	// taken for done: the node has lost the scope, its session or its lease meanwhile.
	ErrOutcomeUnknown = &Error{Code: api.OutcomeUnknown}
)

// problemType is the media type of RFC 9457, in which errors travel over HTTP.
const problemType = "application/problem+json"

// maxReply bounds the line of a Redis error that is looked at: ours are far shorter.
const maxReply = 4 << 10

// ParseReply makes an [*Error] of a Redis error that a store in front of a guard
// answers, with or without the leading "-": MISDIRECTED and QUIESCED with the
// address they name, LEASE_LOST, CROSS_SCOPE, OUTCOME_UNKNOWN, and the registry's own
// TRYAGAIN UNAVAILABLE. It returns nil for any other text, which is the store's
// own error.
func ParseReply(text string) error {
	if len(text) > maxReply {
		return nil
	}
	text = strings.TrimRight(strings.TrimPrefix(text, "-"), "\r\n")
	if strings.ContainsFunc(text, unicode.IsControl) {
		return nil // an error is one line
	}
	for _, code := range []Code{api.Misdirected, api.Quiesced, api.LeaseLost, api.CrossScope, api.OutcomeUnknown, api.Unavailable} {
		detail, ok := strings.CutPrefix(text, code.RESP())
		if !ok || detail != "" && detail[0] != ' ' {
			continue
		}
		e := &api.Error{Code: code, Detail: strings.TrimSpace(detail)}
		switch code {
		case api.Misdirected:
			e.Addr, e.Owner = named(e.Detail, "writer is ")
		case api.Quiesced:
			e.Addr, e.Owner = named(e.Detail, "migrating to ")
		}
		return e
	}
	return nil
}

// named is the node that a reply names after its words: by its address, or by its
// id if it has none.
func named(detail, words string) (addr, id string) {
	rest, ok := strings.CutPrefix(detail, words)
	if !ok {
		return "", ""
	}
	name, _, _ := strings.Cut(rest, " ")
	if _, port, err := net.SplitHostPort(name); err == nil && port != "" {
		return name, ""
	}
	return "", name
}

// ErrorFrom makes an [*Error] of what a store answered over HTTP with [WriteError].
// It returns nil for a good status, 2xx, and INTERNAL for one that is not good
// without an error of ours in the body: look yourself before, if the store has
// answers of its own that are not good, like 404.
func ErrorFrom(resp *http.Response, body []byte) error {
	if resp.StatusCode/100 == 2 {
		return nil
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if e := decodeProblem(body); e != nil && e.Code.Known() && kind == problemType {
		return e
	}
	whom := "a store"
	if resp.Request != nil && resp.Request.URL != nil {
		whom = resp.Request.URL.Host
	}
	return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("%s answered status %d without a registry error", whom, resp.StatusCode)}
}

// decodeProblem is the error in a body, or nil if there is none.
func decodeProblem(body []byte) *api.Error {
	var e api.Error
	if json.Unmarshal(body, &e) != nil || e.Code == "" {
		return nil
	}
	return &e
}

// WriteError answers a request to a store with the error of a guard: as problem
// JSON, with the status of its code and, if it has a hint, Retry-After in whole
// seconds. Any other error becomes INTERNAL, 500, without its text, which may be
// none of the client's business: answer the store's own errors yourself.
func WriteError(w http.ResponseWriter, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		e = &api.Error{Code: api.Internal, Detail: "the store failed; what became of the request is unknown"}
	}
	status := e.Code.HTTPStatus()
	body, err := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		*api.Error
	}{"urn:scope-registry:error:" + string(e.Code), strings.ToLower(strings.ReplaceAll(string(e.Code), "_", " ")), status, e})
	if err != nil { // nothing of it can fail
		status, body = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", problemType)
	if e.RetryMS > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt((e.RetryMS-1)/1000+1, 10))
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}
