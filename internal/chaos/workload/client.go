package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/direct"
)

const (
	// maxTries bounds the tries of one operation; each client takes fewer now and
	// then, and leaves the outcome open.
	maxTries = 3
	// lostReplies is the percentage of replies that clients lose. Few are lost by
	// faults themselves, and a retry of what was done is where request ids count.
	lostReplies = 5
	// retryPause lets a new leader be found before the next try.
	retryPause = 300 * time.Millisecond
	// window is what a move may take, and the whole move too: longer than any run,
	// so that the leader aborts none by itself. It is the most a server allows.
	window = time.Hour
)

// client is one client of one server. It is for one goroutine.
type client struct {
	name     string
	srv      *direct.Server
	log      *history.Log
	stop     <-chan struct{}
	rng      *rand.Rand
	prefixes []string
	lossy    int    // percent of the replies to changes that it loses on the way
	index    uint64 // highest that a reply showed
	moves    int    // started so far
	believes map[string]belief
}

// belief is what a client takes a scope to be, from linearizable reads and
// acknowledged changes only: others may be old.
type belief struct {
	declared        bool
	owner, fallback string
	epoch           uint64
	move            string
	owed            []api.Cleanup
}

// chance is true in p of 100 cases.
func (c *client) chance(p int) bool { return c.rng.IntN(100) < p }

// think waits as a client does between two steps, and reports whether to go on.
func (c *client) think(ctx context.Context, least, most time.Duration) bool {
	return pause(ctx, c.stop, least+time.Duration(c.rng.Int64N(int64(most-least))))
}

// requestID has the form that tells servers how old it is.
func (c *client) requestID() string {
	return fmt.Sprintf("%d-%016x%016x", c.index, c.rng.Uint64(), c.rng.Uint64())
}

// do sends an operation, records it and returns it as it ended. read takes what
// a good reply says.
func (c *client) do(ctx context.Context, op history.Op, r direct.Request, out any, read func(*history.Got)) history.Op {
	op.Client, op.Server = c.name, c.srv.ID()
	tries := 1
	if op.Kind.Mutates() {
		op.RequestID = c.requestID()
		r.RequestID = op.RequestID
		tries += c.rng.IntN(maxTries)
	}
	op.Call = c.log.Now()
	c.send(ctx, &op, r, out, tries)
	op.Return = c.log.Now()
	c.index = max(c.index, op.Got.Seen)
	if op.Outcome == history.OK {
		read(&op.Got)
	}
	return c.log.Op(op)
}

// send tries until the outcome is known or the tries are used up, always with
// the same request id. A reply that is lost makes it ask again for what was done.
func (c *client) send(ctx context.Context, op *history.Op, r direct.Request, out any, tries int) {
	unsure := false
	for op.Tries = 1; ; op.Tries++ {
		limit := callTime
		if op.Kind == history.Local {
			limit = localTime
		}
		once, cancel := context.WithTimeout(ctx, limit)
		reply, err := c.srv.Do(once, r, out)
		cancel()
		op.Got = history.Got{Seen: reply.Index}
		if op.Kind == history.Local {
			op.Got.Leader = reply.Leader
		}
		op.Outcome, op.Code, op.Detail = history.OK, "", ""
		if err != nil {
			failed(op, err, unsure)
		}
		unsure = op.Outcome == history.Unknown
		if op.Tries == 1 && op.Kind.Mutates() && c.chance(c.lossy) {
			unsure, tries = true, max(tries, 2)
			continue
		}
		if !unsure || op.Tries == tries || !pause(ctx, nil, retryPause) {
			return
		}
	}
}

// failed sorts an error into an outcome. After a try of which nobody knows how
// it ended, only an answer that speaks of the state settles the operation.
func failed(op *history.Op, err error, unsure bool) {
	op.Code, op.Detail = api.CodeOf(err), err.Error()
	switch op.Code {
	case api.NoLeader, api.Unavailable, api.Stale, api.Timeout, api.Limit, api.RequestExpired:
		op.Outcome = history.Failed
	default:
		op.Outcome = history.Refused
		if op.Code.Outcome() == api.Unknown {
			op.Outcome = history.Unknown
		}
	}
	switch {
	case !op.Kind.Mutates() && op.Outcome == history.Unknown:
		op.Outcome = history.Failed // a read has no effect
	case op.Kind.Mutates() && op.Outcome == history.Failed && unsure:
		op.Outcome = history.Unknown
	}
	var e *api.Error
	if op.Outcome == history.Refused && errors.As(err, &e) {
		op.Detail = ""
		op.Got.Epoch, op.Got.Move = e.Epoch, e.Move
		if !op.Kind.Mutates() && e.Index != 0 {
			op.Got.Seen = e.Index // of the state that was read; the header's may be newer
		}
	}
}

// declare sets the fallback of a scope, or declares it. epoch, unless 0, must be
// the scope's.
func (c *client) declare(ctx context.Context, prefix, writer, fallback string, epoch uint64) history.Op {
	var out api.Applied
	return c.do(ctx, history.Op{Kind: history.Declare, Prefix: prefix, Arg: history.Arg{Writer: writer, Fallback: fallback, Epoch: epoch}},
		direct.Request{Method: http.MethodPut, Path: "/v1/scope", Query: url.Values{"prefix": {prefix}}, Epoch: epoch,
			Body: api.Declare{Writer: writer, Fallback: fallback}},
		&out, func(g *history.Got) { g.Index, g.Epoch, g.Changed = out.Index, out.Epoch, out.Changed > 0 })
}

// retire removes a scope that has the epoch.
func (c *client) retire(ctx context.Context, prefix string, epoch uint64) history.Op {
	var out api.Applied
	return c.do(ctx, history.Op{Kind: history.Retire, Prefix: prefix, Arg: history.Arg{Epoch: epoch}},
		direct.Request{Method: http.MethodDelete, Path: "/v1/scope", Query: url.Values{"prefix": {prefix}}, Epoch: epoch},
		&out, func(g *history.Got) { g.Index = out.Index })
}

// start begins a move; epoch, unless 0, must be the scope's.
func (c *client) start(ctx context.Context, prefix string, a history.Arg) history.Op {
	return c.step(ctx, history.Op{Kind: history.Start, Prefix: prefix, Arg: a}, "/v1/moves",
		api.StartMove{ID: a.Move, Prefix: prefix, From: a.From, To: a.To, ExpectedEpoch: a.Epoch, Mode: "assisted", PreCopy: a.PreCopy,
			WindowMS: uint64(window.Milliseconds()), TimeoutMS: uint64(window.Milliseconds())})
}

// word gives one of the words of a move: quiesce, shipped, ready, abort, cleaned.
func (c *client) word(ctx context.Context, kind history.Kind, prefix string, a history.Arg) history.Op {
	var body any
	switch kind {
	case history.Shipped, history.Ready:
		body = map[string]api.Manifest{"manifest": {Keys: 1, Bytes: 1, Digest: a.Manifest}}
	case history.Abort, history.Cleaned:
		body = map[string]string{"reason": "chaos run"}
	default:
	}
	return c.step(ctx, history.Op{Kind: kind, Prefix: prefix, Arg: a}, "/v1/moves/"+url.PathEscape(a.Move)+"/"+string(kind), body)
}

// phaseOf is the phase that a step of a move stamps it with.
func phaseOf(op history.Op) string {
	switch op.Kind {
	case history.Start:
		if op.Arg.PreCopy {
			return "copying"
		}
		return "quiescing"
	case history.Quiesce:
		return "quiescing"
	case history.Shipped:
		return "shipped"
	case history.Ready:
		return "done"
	case history.Abort:
		return "aborted"
	default:
		return ""
	}
}

func (c *client) step(ctx context.Context, op history.Op, path string, body any) history.Op {
	var m api.Move
	return c.do(ctx, op, direct.Request{Method: http.MethodPost, Path: path, Body: body}, &m, func(g *history.Got) {
		for _, s := range m.Stamps {
			if s.Phase == phaseOf(op) {
				g.Index = s.Index
			}
		}
		// The reply shows the move as it is now, which may be further on than this step.
		if g.Tenure = m.Epoch; op.Kind == history.Ready {
			g.Epoch = m.NewEpoch
		} else if op.Kind != history.Cleaned {
			g.Epoch = m.Epoch
		}
	})
}

// read asks for a scope, and believes what a linearizable read says.
func (c *client) read(ctx context.Context, kind history.Kind, prefix string) history.Op {
	level := "local"
	if kind == history.Read {
		level = "linearizable"
	}
	var out api.Scope
	op := c.do(ctx, history.Op{Kind: kind, Prefix: prefix}, direct.Get("/v1/scope", "prefix", prefix, "consistency", level), &out,
		func(g *history.Got) { g.Scope = &out })
	if kind == history.Read {
		switch op.Outcome {
		case history.OK:
			c.believes[prefix] = belief{declared: true, owner: out.Owner, fallback: out.Fallback, epoch: out.Epoch, move: out.Move, owed: out.Cleanups}
		case history.Refused:
			c.believes[prefix] = belief{owner: c.believes[prefix].owner}
		default:
		}
	}
	return op
}
