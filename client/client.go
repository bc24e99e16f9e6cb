package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Error is the one error type of this package's methods. Its fields are Code, a
// [Code]; Detail, which names the value that is wrong and what to do; and, where
// they apply, Owner (id of the node that owns the key), Addr (host:port to turn to),
// RetryMS (when to try again, at the earliest), Epoch, Move, ConflictsWith (text of
// a prefix), Floor, Index and Warnings.
type Error = api.Error

const (
	// defaultTimeout bounds one call over all its tries: two leader elections of the default timing.
	defaultTimeout = 10 * time.Second
	// maxBody bounds a reply: a page of scopes is far smaller, and a server that sends more is none of ours.
	maxBody = 64 << 20
	// maxProblem bounds an error reply: a refused batch names ten items at most.
	maxProblem = 1 << 20
	// silence is how long a stream may send nothing: a watch has a heartbeat every second, and a server gives up
	// writing after the same time.
	silence = 10 * time.Second
	// rounds is how often all endpoints are tried: an election passes between the first and the last.
	rounds = 8
	// leastShare is the time of one endpoint, if the caller has it.
	leastShare = time.Second
	// firstPause is the wait after a round in which no endpoint could answer; it doubles up to maxPause.
	firstPause = 50 * time.Millisecond
	maxPause   = time.Second
)

// Client is a client of one cluster. It is safe for use by many goroutines.
type Client struct {
	endpoints []string
	http      *http.Client
	timeout   time.Duration
	actor     string
	reason    string
	tls       *TLS                   // nil if none was given
	token     func() (string, error) // nil if there is none to show
	// plainToken lets it go over plain HTTP to other machines.
	plainToken bool
	index      atomic.Uint64 // highest index any reply carried
	next       atomic.Uint32 // endpoint that answered last
	watched    atomic.Uint32 // the one after the endpoint that took a watch last; 0 if none did
}

// Option changes how a Client behaves.
type Option func(*Client)

// WithTimeout bounds every call, all its tries together. The default is 10 s.
func WithTimeout(d time.Duration) Option { return func(c *Client) { c.timeout = d } }

// WithActor names who asks; servers record it with moves.
func WithActor(name string) Option { return func(c *Client) { c.actor = name } }

// WithHTTPClient replaces the HTTP client, which must not have a timeout of its own.
func WithHTTPClient(h *http.Client) Option { return func(c *Client) { c.http = h } }

// New returns a client of the servers at the endpoints, "https://host:port", "http://host:port" or "host:port" each, which
// is https with [WithTLS] and http without. It does not connect. Close it when done.
func New(endpoints []string, opts ...Option) *Client {
	c := &Client{timeout: defaultTimeout}
	for _, o := range opts {
		o(c)
	}
	for _, e := range endpoints {
		if e = base(e, c.tls != nil); e != "" {
			c.endpoints = append(c.endpoints, e)
		}
	}
	if c.http == nil {
		c.http = &http.Client{Transport: newOverTLS(c.tls)}
	}
	direct := *c.http
	// A POST that is sent elsewhere becomes a GET, whose good answer would be taken for that of the change.
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &direct
	return c
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Index is the highest state index any reply carried, 0 before the first. Give
// it as a read's MinIndex to read what was written before.
func (c *Client) Index() uint64 { return c.index.Load() }

// call is one request with what its answer goes into.
type call struct {
	method, path string
	query        url.Values
	body, out    any
	epoch        uint64        // If-Match; 0 is none
	extra        time.Duration // added to the timeout: a wait the server is asked for
	mutates      bool
	final        api.Code      // of a refusal that another try does not change; "" is none
	share        time.Duration // of one endpoint; 0 is a whole call's
	stream       **reply       // takes the reply with its body unread; nil reads it into out
}

func (c *Client) do(ctx context.Context, q call) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout+q.extra)
	defer cancel()
	var body []byte
	if q.body != nil {
		var err error
		if body, err = json.Marshal(q.body); err != nil {
			return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("the request cannot be written as JSON: %v", err)}
		}
	}
	if !q.mutates {
		return c.try(ctx, q, "", body)
	}
	id, err := c.requestID(ctx)
	if err != nil {
		return err
	}
	err = c.try(ctx, q, id, body)
	if !errors.Is(err, &api.Error{Code: api.RequestExpired}) {
		return err
	}
	// This client was idle for so long that its id was too old from the start. The refusal brought the index of now.
	if id, err = c.requestID(ctx); err != nil {
		return err
	}
	return c.try(ctx, q, id, body)
}

func noEndpoint() *api.Error {
	return &api.Error{Code: api.Invalid, Detail: "no endpoint is given; name at least one server, like http://127.0.0.1:7481"}
}

// try goes round the endpoints until one answers. unsure remembers that an
// earlier try may have been applied: then a later "not applied" by a server
// that did not get that far says nothing about it.
func (c *Client) try(ctx context.Context, q call, id string, body []byte) error {
	if len(c.endpoints) == 0 {
		return noEndpoint()
	}
	var last error
	unsure := false
	pause := firstPause
	start := c.next.Load()
	q.share = c.share(ctx, q)
	least := c.leastTime(ctx, q)
	for round := range rounds {
		// Another server may trust another authority, or know a token that is new; to wait does not help.
		strange := true
		for i := range c.endpoints {
			if last != nil && !hasTime(ctx, least) {
				return c.ended(q, id, unsure, last)
			}
			at := (start + uint32(i)) % uint32(len(c.endpoints))
			err := c.once(ctx, c.endpoints[at], q, id, body)
			if err == nil {
				c.next.Store(at)
				return nil
			}
			stranger := api.CodeOf(err) == api.Unauthenticated
			if !stranger && !again(err, q.mutates) || q.final != "" && api.CodeOf(err) == q.final {
				c.next.Store(at)
				if unsure && !decided(err) {
					return outcomeUnknown(id, err)
				}
				return err
			}
			unsure = unsure || q.mutates && errors.Is(err, &api.Error{Code: api.OutcomeUnknown})
			last, strange = err, strange && stranger
		}
		if strange || round == rounds-1 || !sleep(ctx, pause) {
			break
		}
		pause = min(2*pause, maxPause)
	}
	return c.ended(q, id, unsure, last)
}

// leastTime is what a further try needs: one that is cut off leaves the outcome open, and tells less than the try before.
func (c *Client) leastTime(ctx context.Context, q call) time.Duration {
	least := q.share
	if d, ok := ctx.Deadline(); ok {
		least = min(least, time.Until(d))
	}
	return least / 4
}

func hasTime(ctx context.Context, least time.Duration) bool {
	d, ok := ctx.Deadline()
	return ctx.Err() == nil && (!ok || time.Until(d) >= least)
}

func (c *Client) ended(q call, id string, unsure bool, last error) error {
	if unsure {
		return outcomeUnknown(id, last)
	}
	if errors.Is(last, &api.Error{Code: api.OutcomeUnknown}) && !q.mutates {
		var e *api.Error
		errors.As(last, &e)
		return &api.Error{Code: api.Timeout, Detail: e.Detail}
	}
	return last
}

func outcomeUnknown(id string, last error) error {
	return &api.Error{Code: api.OutcomeUnknown,
		Detail: fmt.Sprintf("request %s may or may not have been applied (%v); look at the state before you repeat it", id, last)}
}

// again says whether another endpoint, or the same later, may do better.
func again(err error, mutates bool) bool {
	switch api.CodeOf(err) {
	case api.NoLeader, api.Unavailable:
		return true
	case api.OutcomeUnknown: // the same request id makes the retry safe
		return true
	case api.Stale, api.Timeout:
		return !mutates
	default:
		return false
	}
}

// decided says whether the state itself refused the request: it then has not applied, and will not apply, an earlier try
// with the same id. It names the index it was at. Who only has no room, or has forgotten the id, says nothing of that try.
func decided(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code.Outcome() == api.NotApplied && e.Code != api.RequestExpired && e.Index > 0
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (c *Client) request(ctx context.Context, endpoint string, q call, id string, body []byte) (*http.Request, error) {
	target := endpoint + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	var rd io.Reader
	if body != nil {
		rd = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, rd)
	if err != nil {
		return nil, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("endpoint %q cannot be asked: %v", endpoint, err)}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if id != "" {
		// In lower case, or net/http takes the request for one that it may send again by itself: then a try that was
		// perhaps applied would be hidden behind the answer to the next one.
		req.Header[strings.ToLower(api.HeaderRequestID)] = []string{id}
	}
	if c.actor != "" {
		req.Header.Set(api.HeaderActor, c.actor)
	}
	if err := c.say(req); err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); ok {
		left := time.Until(d)
		if q.share > 0 {
			left = min(left, q.share)
		}
		req.Header.Set(api.HeaderPatience, strconv.FormatInt(max(1, left.Milliseconds()), 10))
	}
	if q.epoch != 0 {
		req.Header.Set("If-Match", strconv.FormatUint(q.epoch, 10))
	}
	return req, c.authorize(req)
}

// share is how long one endpoint may take, so that one which takes requests and answers none leaves time for the others,
// also where the caller has less time than the client. A little time is not cut further: then no endpoint could answer.
func (c *Client) share(ctx context.Context, q call) time.Duration {
	n := time.Duration(len(c.endpoints))
	share := c.timeout / n
	if d, ok := ctx.Deadline(); ok {
		share = min(share, max(leastShare, (time.Until(d)-q.extra)/n))
	}
	return share + q.extra
}

func (c *Client) once(ctx context.Context, endpoint string, q call, id string, body []byte) error {
	r, err := c.open(ctx, endpoint, q, id, body, q.share)
	if err != nil {
		return err
	}
	if q.stream != nil {
		*q.stream = r
		return nil
	}
	defer r.close()
	data, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	switch {
	case err != nil:
		return transportError(endpoint, err)
	case len(data) > maxBody:
		return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("%s answered with more than %d bytes", endpoint, maxBody)}
	case q.mutates && r.header.Get(api.HeaderIndex) == "":
		return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("%s%s answered well without an index; is it a registry server?", endpoint, q.path)}
	case q.out == nil:
		return nil
	}
	if err := json.Unmarshal(data, q.out); err != nil {
		return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("%s%s answered with something that is not its JSON: %v", endpoint, q.path, err)}
	}
	return nil
}

// reply is a good reply whose body is still to be read.
type reply struct {
	endpoint string
	header   http.Header
	body     io.ReadCloser
	alive    *time.Timer // ends the request unless it is stopped or reset
	ctx      context.Context
	end      context.CancelCauseFunc
}

// Read reads the body.
func (r *reply) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	return n, r.why(err)
}

func (r *reply) close() {
	r.alive.Stop()
	r.end(nil)
	_ = r.body.Close()
}

// why is what the request was ended for, if it was, instead of the mere fact.
func (r *reply) why(err error) error {
	if cause := context.Cause(r.ctx); err != nil && cause != nil && unsent(err) == nil {
		return cause
	}
	return err
}

// open sends a request and reads the reply as far as its body, if it is a good one. The request ends when patience is
// over before the reply is closed.
func (c *Client) open(ctx context.Context, endpoint string, q call, id string, body []byte, patience time.Duration) (*reply, error) {
	ctx, end := context.WithCancelCause(ctx)
	r := &reply{endpoint: endpoint, body: http.NoBody, ctx: ctx, end: end}
	r.alive = time.AfterFunc(patience, func() { end(fmt.Errorf("nothing came for %v", patience)) })
	req, err := c.request(ctx, endpoint, q, id, body)
	if err != nil {
		r.close()
		return nil, err
	}
	resp, err := c.http.Do(req) //nolint:bodyclose // reply.close does
	if err != nil {
		if err = r.why(err); !q.mutates && refusedByServer(err) {
			err = unwelcome(endpoint, err)
		} else {
			err = transportError(endpoint, err)
		}
		r.close()
		return nil, err
	}
	c.saw(resp.Header)
	r.header, r.body = resp.Header, resp.Body
	if resp.StatusCode/100 == 2 {
		return r, nil
	}
	defer r.close()
	data, err := io.ReadAll(io.LimitReader(r, maxProblem))
	if err != nil {
		return nil, transportError(endpoint, err)
	}
	return nil, problem(endpoint, resp, data)
}

// saw remembers the index a reply carried.
func (c *Client) saw(h http.Header) {
	n, err := strconv.ParseUint(h.Get(api.HeaderIndex), 10, 64)
	if err != nil {
		return
	}
	for {
		old := c.index.Load()
		if n <= old || c.index.CompareAndSwap(old, n) {
			return
		}
	}
}

// unsent is the error of a request that never left, or nil.
func unsent(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return op.Err
	}
	return nil
}

// transportError tells a request that never left from one whose fate is open.
func transportError(endpoint string, err error) error {
	var own *api.Error
	if errors.As(err, &own) { // of this client's own, before it dialed
		return own
	}
	if dialling := unsent(err); dialling != nil {
		if e := handshakeFailed(endpoint, dialling); e != nil {
			return e
		}
		return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("%s cannot be reached: %v; is a server running there, and is the list of endpoints right?", endpoint, dialling)}
	}
	return &api.Error{Code: api.OutcomeUnknown, Detail: fmt.Sprintf("%s did not answer: %v", endpoint, err)}
}

// problem turns an error reply into its *api.Error.
func problem(endpoint string, resp *http.Response, data []byte) error {
	if e := decodeProblem(data); e != nil {
		if e.Code == api.Limit && resp.Header.Get(api.HeaderIndex) == "" {
			e.Code = api.Unavailable // it did not take the connection: no state has refused this, and another server may have room
		}
		return e
	}
	code, is := api.Internal, "is it a registry server?"
	switch resp.StatusCode {
	case http.StatusNotFound:
		code = api.Unavailable // no server of ours: another one may be
	case http.StatusBadRequest: // what Go's servers say to plain HTTP where they expect TLS
		is = "is it a registry server, and does it want TLS? Then write https://"
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("%s sends the request on to %q, which is not followed; name the server itself",
			endpoint, resp.Header.Get("Location"))}
	}
	return &api.Error{Code: code, Detail: fmt.Sprintf("%s answered status %d without a registry error; %s", endpoint, resp.StatusCode, is)}
}

// requestID makes the id a mutation keeps over all its tries:
// "<index>-<32 hex>". The index tells servers how old the id is.
func (c *Client) requestID(ctx context.Context) (string, error) {
	if c.Index() == 0 {
		// A small reply of a server that has caught up; what counts is its header.
		if err := c.try(ctx, call{method: http.MethodGet, path: "/v1/moves", query: url.Values{"limit": {"1"}}}, "", nil); err != nil {
			return "", err
		}
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", &api.Error{Code: api.Internal, Detail: fmt.Sprintf("no random bytes for a request id: %v", err)}
	}
	return strconv.FormatUint(c.Index(), 10) + "-" + hex.EncodeToString(raw[:]), nil
}
