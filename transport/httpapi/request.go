package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
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
	index     uint64 // of the state that answered; 0: that of the moment of writing
	status    int
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
// writeTimeout.
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
	err := http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
	if errors.Is(err, http.ErrNotSupported) {
		return nil // a writer without deadlines is one of a test
	}
	return err
}

// startStream writes the header of a reply that is sent piece by piece. Its
// connection serves no other request: the deadline for the last piece stays on
// it, so that not even the end of the reply can hang.
func startStream(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
}

// ServeHTTP answers one request, counts it and logs it.
func (s *server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	r := &reply{ResponseWriter: w, server: s, request: req, operation: "none"}
	req = req.WithContext(context.WithValue(req.Context(), replyKey{}, r))
	r.request = req
	_ = r.bounded() // for what net/http itself may write; the deadline of the reply before is over
	defer func() {  // also of a reply that was cut off
		if r.status == 0 {
			r.status = http.StatusOK
		}
		took := time.Since(start)
		s.metrics.observe(r.operation, r.status, took)
		s.log.Debug("request", "operation", r.operation, "method", req.Method, "path", req.URL.Path,
			"status", r.status, "took", took, "from", req.RemoteAddr)
	}()
	if _, pattern := s.mux.Handler(req); pattern == "" {
		s.unknown(r, req)
	} else {
		s.mux.ServeHTTP(r, req)
	}
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
	Actor     string `header:"X-Registry-Actor" doc:"Who asks; recorded with moves"`
}

// propose commits one command and returns its result.
func (s *server) propose(ctx context.Context, m Mutation, cmd fsm.Command) (*fsm.Result, error) {
	if err := headerText(api.HeaderRequestID, m.RequestID); err != nil {
		return nil, err
	}
	if err := headerText(api.HeaderActor, m.Actor); err != nil {
		return nil, err
	}
	if m.Actor == "" {
		m.Actor = "anonymous@" + remoteHost(ctx)
	}
	ctx, cancel := m.bound(ctx)
	defer cancel()
	res, err := s.reg.Propose(ctx, fsm.Envelope{RequestID: m.RequestID, Actor: m.Actor, Command: cmd})
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
