package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
)

// reply is the writer of one reply. It adds the registry's headers at the last
// moment, when it is known which state answered.
type reply struct {
	http.ResponseWriter
	server    *server
	request   *http.Request
	operation string
	caller    caller // nobody until it is known who asks
	index     uint64 // of the state that answered; 0: that of the moment of writing
	status    int
	writeBy   time.Time // the deadline that is set
}

type replyKey struct{}

// replyOf is the reply of the request that ctx belongs to, or nil.
func replyOf(ctx context.Context) *reply {
	r, _ := ctx.Value(replyKey{}).(*reply)
	return r
}

// Unwrap lets http.ResponseController reach the connection.
func (r *reply) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader adds the headers that every reply carries.
func (r *reply) WriteHeader(status int) {
	if r.status != 0 {
		return
	}
	r.status = status
	index := r.index
	if index == 0 {
		index = r.server.reg.State().Index()
	}
	h := r.Header()
	harden(h, status)
	h.Set(api.HeaderIndex, strconv.FormatUint(index, 10))
	if m := r.request.Method; m == http.MethodGet || m == http.MethodHead {
		leader, contact, known := r.server.reg.Leader()
		if !known {
			leader = ""
		}
		h.Set(api.HeaderLeader, leader)
		h.Set(api.HeaderLastContact, strconv.FormatInt(contact.Milliseconds(), 10))
	}
	_ = r.bounded() // what fails now fails when it is written
	r.ResponseWriter.WriteHeader(status)
}

// Write writes the body, and the header before it, each writePiece of it within
// writeTimeout, or up to writeSlack more.
func (r *reply) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	written := 0
	for piece := range slices.Chunk(p, writePiece) {
		if err := r.bounded(); err != nil {
			return written, err
		}
		n, err := r.ResponseWriter.Write(piece)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// bounded bounds what is written next, and the flush behind it: a client that
// does not read would else hold its connection, and the reply, for ever.
func (r *reply) bounded() error {
	now := time.Now()
	if r.writeBy.Sub(now) >= writeTimeout {
		return nil
	}
	by := now.Add(writeTimeout + writeSlack)
	err := http.NewResponseController(r.ResponseWriter).SetWriteDeadline(by)
	if errors.Is(err, http.ErrNotSupported) {
		return nil // a writer without deadlines is one of a test
	}
	if err == nil {
		r.writeBy = by
	}
	return err
}

// harden adds what keeps browsers from doing more with a reply than show it, and caches from keeping what was answered
// to somebody.
func harden(h http.Header, status int) {
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if h.Get("Cache-Control") == "" { // what never changes says so itself
		h.Set("Cache-Control", "no-store")
	}
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", challenge)
	}
}

// startStream writes the header of a reply that is sent piece by piece. Its
// connection serves no other request: the deadline for the last piece stays on
// it, so that not even the end of the reply can hang.
func startStream(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
}

// ServeHTTP answers one request, counts it and logs it.
func (s *server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	r := &reply{ResponseWriter: w, server: s, request: req, operation: "none"}
	req = req.WithContext(context.WithValue(req.Context(), replyKey{}, r))
	r.request = req
	if r.evicted() {
		panic(http.ErrAbortHandler)
	}
	if req.ContentLength != 0 { // who wants the body gives it more time
		_ = http.NewResponseController(w).SetReadDeadline(start.Add(strayTimeout))
	}
	_ = r.bounded() // for what net/http itself may write; the deadline of the reply before is over
	defer func() {  // also of a reply that was cut off
		if r.status == 0 {
			r.status = http.StatusOK
		}
		took := time.Since(start)
		s.metrics.observe(r.operation, r.status, took)
		if !s.log.IsDebug() { // to prepare what is not logged took longer than to count the request
			return
		}
		s.log.Debug("request", "operation", r.operation, "method", req.Method, "path", logged(req.URL),
			"status", r.status, "took", took, "from", req.RemoteAddr, "by", r.caller.String())
	}()
	if err := s.origins.Check(req); err != nil {
		r.refuse(&api.Error{Code: api.Forbidden, Detail: fmt.Sprintf("a page of another site asks (%v); only pages of this server may change anything", err)})
	} else if _, pattern := s.mux.Handler(req); pattern == "" {
		r.spare()
		s.unknown(r, req)
	} else {
		s.mux.ServeHTTP(r, req)
	}
}

// refuse answers a request of which nothing was done.
func (r *reply) refuse(err error) {
	r.spare()
	writeProblem(r, problemOf(err))
}

// logged is a path as it may stand in a log: percent-encoded, without line ends and what a terminal would act on.
func logged(u *url.URL) string {
	path := access.Hide(u.EscapedPath())
	return path[:min(len(path), shownLen)]
}

// unknown answers what no pattern matches: another method of a known path, or
// a path that is not there.
func (s *server) unknown(w http.ResponseWriter, req *http.Request) {
	found := discarded{header: http.Header{}}
	s.mux.ServeHTTP(&found, req)
	p := problemOf(&api.Error{Code: api.NotFound, Detail: fmt.Sprintf("there is no %s %s; see /openapi.json", req.Method, shown(req.URL.Path))})
	if allow := found.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		p = problemOf(invalid("method %s is not allowed for %s; use %s", req.Method, req.URL.Path, allow))
		p.Status = http.StatusMethodNotAllowed
	}
	writeProblem(w, p)
}

// discarded keeps only the header of a reply.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d *discarded) WriteHeader(int)             {}

// Patience lets a server say what it knows before its client gives up: a refusal
// is worth more than silence, after which nobody knows the outcome. Exported, as
// huma sees no others.
type Patience struct {
	PatienceMS uint64 `header:"X-Registry-Patience" doc:"Milliseconds the client waits; the server answers before, at most 10 s after it was asked"`
}

// bound is ctx with the time that the server has to answer.
func (p Patience) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := requestTimeout
	if p.PatienceMS > 0 && p.PatienceMS < uint64(limit/time.Millisecond) {
		limit = time.Duration(p.PatienceMS) * time.Millisecond * 9 / 10 // the rest is for the way back
	}
	return context.WithTimeout(ctx, limit)
}

// leaderTime is how long a read may wait for what only the leader knows. It has
// read the state before, for which the client's patience had to do as well.
func (p Patience) leaderTime() time.Duration {
	limit := leaderTimeout
	if p.PatienceMS > 0 && p.PatienceMS/4 < uint64(limit/time.Millisecond) {
		limit = time.Duration(p.PatienceMS) * time.Millisecond / 4
	}
	return limit
}

// ReadParams are the read levels, for every read. Exported, as huma sees no others.
type ReadParams struct {
	Patience
	Consistency string `query:"consistency" enum:"local,linearizable" doc:"local (default) or linearizable"`
	MinIndex    uint64 `query:"min_index" doc:"Wait until this index is applied here"`
	MaxStale    string `query:"max_stale" doc:"Refuse if the leader was not heard for longer, for example 500ms; a bare number is milliseconds"`
}

// read returns the state that answers a request.
func (s *server) read(ctx context.Context, p ReadParams) (fsm.State, error) {
	o := api.ReadOptions{Consistency: p.Consistency, MinIndex: p.MinIndex}
	if p.MaxStale != "" {
		d, err := time.ParseDuration(p.MaxStale)
		if n, e := strconv.ParseUint(p.MaxStale, 10, 31); e == nil {
			d, err = time.Duration(n)*time.Millisecond, nil
		}
		if err != nil || d <= 0 {
			return fsm.State{}, invalid("max_stale %s is not a time above 0; write it like 500ms or 2s", shown(p.MaxStale))
		}
		o.MaxStale = d
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	st, err := s.reg.Read(ctx, o)
	if err != nil {
		return fsm.State{}, err
	}
	s.answeredAt(ctx, st.Index())
	return st, nil
}

func (s *server) answeredAt(ctx context.Context, index uint64) {
	if r := replyOf(ctx); r != nil {
		r.index = index
	}
}

// Mutation are the headers of every mutation. Exported, as huma sees no others.
type Mutation struct {
	Patience
	RequestID string `header:"Idempotency-Key" doc:"Request id: a retry with the same one takes effect at most once"`
	Actor     string `header:"X-Registry-Actor" doc:"Who asks, of callers that show neither token nor certificate; recorded with moves"`
	Reason    string `header:"X-Registry-Reason" doc:"Why, for the audit; at most 1024 bytes"`
}

// envelope is a command of who asks, as it goes into the log. What was asked for in somebody's name is not: who is known
// by a token or a certificate cannot give another one.
func envelope(ctx context.Context, m Mutation, cmd fsm.Command) (fsm.Envelope, error) {
	if err := errors.Join(headerText(api.HeaderRequestID, m.RequestID), headerText(api.HeaderActor, m.Actor), reasonText(m.Reason)); err != nil {
		return fsm.Envelope{}, err
	}
	c, host := callerOf(ctx), remoteHost(ctx)
	e := fsm.Envelope{RequestID: m.RequestID, Actor: m.Actor, Origin: fsm.OriginOf(c.Who, host, m.Reason), Command: cmd}
	switch {
	case c.known():
		name := c.String()
		e.Actor = name[:min(len(name), MaxHeaderText)]
	case e.Actor == "":
		e.Actor = "anonymous@" + host
	}
	return e, nil
}

// propose commits one command and returns its result.
func (s *server) propose(ctx context.Context, m Mutation, cmd fsm.Command) (*fsm.Result, error) {
	e, err := envelope(ctx, m, cmd)
	if err != nil {
		return nil, err
	}
	ctx, cancel := m.bound(ctx)
	defer cancel()
	res, err := s.reg.Propose(ctx, e)
	if err != nil {
		return nil, err
	}
	// A retry gets the index of the first try, which this server may have long passed.
	s.answeredAt(ctx, max(res.Index, s.reg.State().Index()))
	return res, nil
}

// appliedBody is the reply of most mutations.
type appliedBody struct{ Body api.Applied }

func (s *server) apply(ctx context.Context, m Mutation, cmd fsm.Command) (*appliedBody, error) {
	res, err := s.propose(ctx, m, cmd)
	if err != nil {
		return nil, err
	}
	return &appliedBody{view.Applied(res)}, nil
}

func nowMS() int64 { return time.Now().UnixMilli() }

func headerText(name, value string) error {
	if len(value) > MaxHeaderText {
		return invalid("%s has %d bytes, the limit is %d", name, len(value), MaxHeaderText)
	}
	if i := strings.IndexFunc(value, func(c rune) bool { return c < 0x20 || c > 0x7e }); i >= 0 {
		return invalid("%s %s has a byte at %d that is not printable ASCII", name, shown(value), i)
	}
	return nil
}

// reasonText refuses a reason that does not fit into a record, or would not stand in one line of it.
func reasonText(reason string) error {
	if len(reason) > fsm.MaxReason {
		return invalid("%s has %d bytes, the limit is %d", api.HeaderReason, len(reason), fsm.MaxReason)
	}
	if !utf8.ValidString(reason) || strings.ContainsFunc(reason, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return invalid("%s %s has something that is not printable; write it in one line of UTF-8", api.HeaderReason, shown(reason))
	}
	return nil
}
