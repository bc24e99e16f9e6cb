package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/scope-registry/scope-registry/internal/api"
)

type (
	// OpenSession asks for the right to speak for a node.
	OpenSession = api.OpenSession
	// Opened answers it.
	Opened = api.Opened
	// Renewal is what the holder of a session says every few seconds.
	Renewal = api.Renewal
	// Renewed answers it.
	Renewed = api.Renewed
	// Report says how far the source of a move is.
	Report = api.Report
	// Cleanup is an old copy that its node has to delete.
	Cleanup = api.Cleanup
)

// Fenced is the caller's word that a node is off. Identity is that of the data
// the word is about, empty if the node never had a session.
type Fenced struct{ Node, Identity string }

// OpenSession asks for the right to speak for a node. The caller draws the
// session's id and token, and keeps them on disk before it calls. After
// OUTCOME_UNKNOWN the same again is safe: it gets the first answer if the session
// was opened.
func (c *Client) OpenSession(ctx context.Context, node string, o OpenSession) (Opened, error) {
	return post[Opened](ctx, c, "/v1/nodes/"+url.PathEscape(node)+"/session", o)
}

// Renew renews a lease. It lasts LeaseMS from before this was called: the answer
// may be that to a second try, but no try is older than the call. A renewal
// changes nothing in the log and is tried again until ctx ends; bound it, as one
// that comes after the lease's end is of no use. SESSION_EXPIRED: nothing that
// the session says counts any more. STALE: the node's view stands still.
func (c *Client) Renew(ctx context.Context, r Renewal) (Renewed, error) {
	var out Renewed
	body := struct {
		View uint64 `json:"view_index"`
	}{r.View}
	err := c.do(ctx, call{method: http.MethodPut, path: "/v1/sessions/" + url.PathEscape(r.Session), body: body, out: &out, final: api.Stale})
	return out, err
}

// CloseSession gives the right up. From before the call on the caller admits
// nothing more, and has drained.
func (c *Client) CloseSession(ctx context.Context, session string) (api.Applied, error) {
	var out api.Applied
	err := c.do(ctx, call{method: http.MethodDelete, path: "/v1/sessions/" + url.PathEscape(session), out: &out, mutates: true})
	return out, err
}

// Sessions are the live sessions with what is left of their leases.
func (c *Client) Sessions(ctx context.Context) (api.Sessions, error) {
	return get[api.Sessions](ctx, c, "/v1/sessions", nil)
}

// FenceNode is the caller's word that a node is off for good with the data it
// last held a session with: its next session may be of other data.
func (c *Client) FenceNode(ctx context.Context, f Fenced) (api.Applied, error) {
	body := struct {
		Identity string `json:"identity"`
	}{f.Identity}
	return post[api.Applied](ctx, c, "/v1/nodes/"+url.PathEscape(f.Node)+"/fence", body)
}

// Report says how far the source of a move is. It is not logged, and a later one
// replaces it.
func (c *Client) Report(ctx context.Context, r Report) error {
	return c.do(ctx, call{method: http.MethodPost, path: moveVerb(r.Move, "progress"), body: r})
}

// ShippedAs is the word of the source's session: it is closed, has drained, and
// all records are shipped.
func (c *Client) ShippedAs(ctx context.Context, session, id string, m *api.Manifest) (api.Move, error) {
	return post[api.Move](ctx, c, moveVerb(id, "shipped"), word{Session: session, Manifest: m})
}

// ReadyAs is the word of the target's session: all records are durable. The move
// is done then.
func (c *Client) ReadyAs(ctx context.Context, session, id string, m *api.Manifest) (api.Move, error) {
	return post[api.Move](ctx, c, moveVerb(id, "ready"), word{Session: session, Manifest: m})
}

// AbortAs is the word of the source's or the target's session that the move
// cannot go on.
func (c *Client) AbortAs(ctx context.Context, session, id, reason string) (api.Move, error) {
	return post[api.Move](ctx, c, moveVerb(id, "abort"), word{Session: session, Reason: reason})
}

// CleanedAs is the word of the node's session that it has deleted the copy.
func (c *Client) CleanedAs(ctx context.Context, session string, done Cleanup) (api.Move, error) {
	return post[api.Move](ctx, c, moveVerb(done.Move, "cleaned"), word{Session: session, Node: done.Node, Prefix: &done.Prefix, Epoch: done.Epoch})
}

// word is what is said in a step of a move.
type word struct {
	Session  string        `json:"session,omitempty"`
	Manifest *api.Manifest `json:"manifest,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Node     string        `json:"node,omitempty"`
	Prefix   *string       `json:"prefix,omitempty"`
	Epoch    uint64        `json:"epoch,omitempty"`
}
