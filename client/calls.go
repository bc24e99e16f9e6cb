package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// What is given to calls, and what they return. The fields are described where
// docs/openapi.json, the reference of the API, has them too.
type (
	// Node is a data node, as it is declared: ID, and Addr, the host:port that
	// MISDIRECTED names.
	Node = api.Node
	// Declare says who writes a scope, and who stands in: Writer, Fallback, Failover
	// ("auto" or "manual"), Lease ("auto", "always" or "never"), SourceFenced and
	// SourceFencedIdentity (the word that an old owner is off).
	Declare = api.Declare
	// Changes are nodes and scopes that are declared together, or not at all: Nodes,
	// Scopes (each a Declare with its Prefix), Prune, IfIndex, DryRun.
	Changes = api.Batch
	// StartMove says which scope moves, from whom to whom, and how: ID (made by the
	// server if empty), Prefix (text form), From, To, ExpectedEpoch, Mode ("agent" or
	// "assisted"), PreCopy, WindowMS, TimeoutMS, Reason.
	StartMove = api.StartMove
	// Move is a move, running or ended.
	Move = api.Move
	// Force gives a scope away without its owner.
	Force = api.Force
	// Applied answers a mutation.
	Applied = api.Applied
	// WatchItem is one item of a [Watch].
	WatchItem = api.WatchItem
)

// RouteOptions say for whom and how fresh a route is asked.
type RouteOptions struct {
	As          string // node that asks; "" asks for no verdict
	Consistency string // "", local or linearizable
	MinIndex    uint64 // the server waits until it has applied this index
}

// ListOptions bound a list of scopes. Zero values bound nothing.
type ListOptions struct {
	Under      scope.Prefix // only prefixes that begin with it
	After      scope.Prefix // only prefixes after it
	Limit      int          // at most this many; 0 is the server's own limit
	NoFallback bool         // only scopes without a fallback
	Node       string       // only scopes this node is part of
}

// Scopes is one page of scopes. Next, when not "", is the After of the next page, as text.
type Scopes struct {
	Index  uint64      `json:"index"`
	Scopes []api.Scope `json:"scopes"`
	Next   string      `json:"next,omitempty"`
}

// Nodes are all data nodes.
type Nodes struct {
	Index uint64          `json:"index"`
	Nodes []api.NodeState `json:"nodes"`
}

// Moves are the moves that were asked for.
type Moves struct {
	Index uint64     `json:"index"`
	Moves []api.Move `json:"moves"`
}

// MoveFilter picks moves; zero values pick all.
type MoveFilter struct {
	Prefix string // text form: moves of exactly this scope
	Key    string // text form: moves of the scope the key is under
	State  string // running or finished
	Limit  int
}

func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}

func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var out T
	err := c.do(ctx, call{method: http.MethodGet, path: path, query: query, out: &out})
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	var out T
	err := c.do(ctx, call{method: http.MethodPost, path: path, body: body, out: &out, mutates: true})
	return out, err
}

// Route asks where a key belongs.
func (c *Client) Route(ctx context.Context, key []byte, o RouteOptions) (api.Route, error) {
	q := values("as", o.As, "consistency", o.Consistency, "min_index", number(o.MinIndex))
	q.Set("key", scope.BytesText(string(key)))
	return get[api.Route](ctx, c, "/v1/route", q)
}

// Explain asks why a key routes as it does.
func (c *Client) Explain(ctx context.Context, key []byte) (api.Explain, error) {
	return get[api.Explain](ctx, c, "/v1/explain", url.Values{"key": {scope.BytesText(string(key))}})
}

// Scopes lists one page of scopes by prefix.
func (c *Client) Scopes(ctx context.Context, o ListOptions) (Scopes, error) {
	q := values("under", o.Under.Text(), "after", o.After.Text(), "limit", number(uint64(max(o.Limit, 0))), "node", o.Node)
	if o.NoFallback {
		q.Set("no_fallback", "true")
	}
	return get[Scopes](ctx, c, "/v1/scopes", q)
}

// Scope gets the scope declared with exactly this prefix; NOT_FOUND if there is none.
func (c *Client) Scope(ctx context.Context, p scope.Prefix) (api.Scope, error) {
	return get[api.Scope](ctx, c, "/v1/scope", url.Values{"prefix": {p.Text()}})
}

// Declare declares a scope or changes its options. ifEpoch, unless 0, must be its epoch.
func (c *Client) Declare(ctx context.Context, p scope.Prefix, d api.Declare, ifEpoch uint64) (api.Applied, error) {
	var out api.Applied
	d.Prefix = ""
	err := c.do(ctx, call{method: http.MethodPut, path: "/v1/scope", query: url.Values{"prefix": {p.Text()}}, body: d, out: &out,
		epoch: ifEpoch, mutates: true})
	return out, err
}

// Retire removes a scope. off, unless it is zero, is the caller's word about the owner.
func (c *Client) Retire(ctx context.Context, p scope.Prefix, off Fenced, ifEpoch uint64) (api.Applied, error) {
	q := values("source_fenced", off.Node, "source_fenced_identity", off.Identity)
	q.Set("prefix", p.Text())
	var out api.Applied
	err := c.do(ctx, call{method: http.MethodDelete, path: "/v1/scope", query: q, out: &out, epoch: ifEpoch, mutates: true})
	return out, err
}

// Apply applies a batch as one entry, or plans it when it is a dry run.
func (c *Client) Apply(ctx context.Context, b api.Batch) (api.Applying, error) {
	var out api.Applying
	err := c.do(ctx, call{method: http.MethodPost, path: "/v1/apply", body: b, out: &out, mutates: !b.DryRun})
	return out, err
}

// Force gives a scope to another node without its owner, with loss.
func (c *Client) Force(ctx context.Context, f api.Force) (api.Applied, error) {
	return post[api.Applied](ctx, c, "/v1/force", f)
}

// Nodes lists the data nodes.
func (c *Client) Nodes(ctx context.Context) (Nodes, error) {
	return get[Nodes](ctx, c, "/v1/nodes", nil)
}

// Node gets one data node with its session; NOT_FOUND if there is none.
func (c *Client) Node(ctx context.Context, id string) (api.NodeState, error) {
	return get[api.NodeState](ctx, c, "/v1/nodes/"+url.PathEscape(id), nil)
}

// SetNode adds a data node or changes its address.
func (c *Client) SetNode(ctx context.Context, n api.Node) (api.Applied, error) {
	var out api.Applied
	err := c.do(ctx, call{method: http.MethodPut, path: "/v1/nodes/" + url.PathEscape(n.ID), body: n, out: &out, mutates: true})
	return out, err
}

// RemoveNode removes a data node that no scope or move names.
func (c *Client) RemoveNode(ctx context.Context, id string) (api.Applied, error) {
	return c.RemoveFencedNode(ctx, id, Fenced{})
}

// RemoveFencedNode is RemoveNode with the caller's word that the node is off,
// which is needed while the cluster holds and the node has not met the
// incarnation. off names the node again.
func (c *Client) RemoveFencedNode(ctx context.Context, id string, off Fenced) (api.Applied, error) {
	var out api.Applied
	err := c.do(ctx, call{method: http.MethodDelete, path: "/v1/nodes/" + url.PathEscape(id),
		query: values("source_fenced", off.Node, "source_fenced_identity", off.Identity), out: &out, mutates: true})
	return out, err
}

// Release serves a scope although the cluster holds since a restore.
func (c *Client) Release(ctx context.Context, r api.Release) (api.Applied, error) {
	return post[api.Applied](ctx, c, "/v1/release", r)
}

// StartMove starts a move of a scope.
func (c *Client) StartMove(ctx context.Context, m api.StartMove) (api.Move, error) {
	return post[api.Move](ctx, c, "/v1/moves", m)
}

// Moves lists moves, running ones first.
func (c *Client) Moves(ctx context.Context, f MoveFilter) (Moves, error) {
	return get[Moves](ctx, c, "/v1/moves", values("prefix", f.Prefix, "key", f.Key, "state", f.State, "limit", number(uint64(max(f.Limit, 0)))))
}

// Move gets a move, from a state no older than any reply this client has seen:
// what is done about a move must not rest on a server that is behind. With wait
// the server answers when the move has ended, or after wait (whole seconds) as
// it then is.
func (c *Client) Move(ctx context.Context, id string, wait time.Duration) (api.Move, error) {
	var out api.Move
	err := c.do(ctx, call{method: http.MethodGet, path: "/v1/moves/" + url.PathEscape(id),
		query: values("wait", number(uint64(max(wait, 0)/time.Second)), "min_index", number(c.Index())), out: &out, extra: max(wait, 0)})
	return out, err
}

// Quiesce closes the scope of a move for writes.
func (c *Client) Quiesce(ctx context.Context, id string) (api.Move, error) {
	return post[api.Move](ctx, c, moveVerb(id, "quiesce"), struct{}{})
}

// Shipped is the operator's word, in mode assisted, that the source has sent the slice.
func (c *Client) Shipped(ctx context.Context, id string, m *api.Manifest) (api.Move, error) {
	return post[api.Move](ctx, c, moveVerb(id, "shipped"), word{Manifest: m})
}

// Ready is the operator's word that the target holds the slice; the move is done then.
func (c *Client) Ready(ctx context.Context, id string, m *api.Manifest) (api.Move, error) {
	return post[api.Move](ctx, c, moveVerb(id, "ready"), word{Manifest: m})
}

// Abort is the operator's: it ends a move that is not done; the owner stays.
func (c *Client) Abort(ctx context.Context, id, reason string) (api.Move, error) {
	return post[api.Move](ctx, c, moveVerb(id, "abort"), word{Reason: reason})
}

// Cleaned is the operator's word that the old copy of the source is gone.
func (c *Client) Cleaned(ctx context.Context, id, reason string) (api.Move, error) {
	return post[api.Move](ctx, c, moveVerb(id, "cleaned"), word{Reason: reason})
}

func moveVerb(id, verb string) string { return "/v1/moves/" + url.PathEscape(id) + "/" + verb }

// Cluster gets the status of the servers; hash asks each for the hash of its state too.
func (c *Client) Cluster(ctx context.Context, hash bool) (api.Cluster, error) {
	var q url.Values
	if hash {
		q = url.Values{"hash": {"true"}}
	}
	return get[api.Cluster](ctx, c, "/v1/cluster", q)
}

// Transfer hands leadership to a server, "" is any.
func (c *Client) Transfer(ctx context.Context, to string) error {
	body := struct {
		To string `json:"to"`
	}{to}
	return c.do(ctx, call{method: http.MethodPost, path: "/v1/cluster/transfer", body: body, mutates: true})
}

// JoinServer lets a server that waits for it into the cluster, or gives a server another address, host:port. It answers
// when that is on record; Cluster shows how it goes on.
func (c *Client) JoinServer(ctx context.Context, id, addr string) (api.ServerChange, error) {
	body := struct {
		ID   string `json:"id"`
		Addr string `json:"addr"`
	}{id, addr}
	var out api.ServerChange
	err := c.do(ctx, call{method: http.MethodPost, path: "/v1/cluster/members", body: body, out: &out, mutates: true})
	return out, err
}

// RemoveServer lets a server leave for good. acceptNoMajority is the caller's word that it may although the voters that
// stay and are up are no majority.
func (c *Client) RemoveServer(ctx context.Context, id string, acceptNoMajority bool) (api.ServerChange, error) {
	var q url.Values
	if acceptNoMajority {
		q = url.Values{"accept_no_majority": {"true"}}
	}
	var out api.ServerChange
	err := c.do(ctx, call{method: http.MethodDelete, path: "/v1/cluster/members/" + url.PathEscape(id), query: q, out: &out, mutates: true, extra: removeWait})
	return out, err
}

// removeWait is how much longer than usual the removal of a server may take: an election, and questions to servers that are down.
const removeWait = 10 * time.Second

// Health is nil when a server is ready: it has caught up once and knows a leader.
func (c *Client) Health(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: "/readyz"})
}
