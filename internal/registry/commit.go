package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// maxWaiting bounds the commands that wait for the log: at 64 writers they are a few entries, and beyond this
	// a caller would wait longer than it is willing to. The leader's own do not count: floods of others must not keep
	// expiries out of the log.
	maxWaiting = 4096

	// maxOfOne bounds those of one caller: an eighth, so that no few of them can shut out all others. A program waits for
	// far fewer at a time.
	maxOfOne = maxWaiting / 8

	// enqueueTimeout bounds raft taking an entry from us. It does not bound the commit (RAFT trap 4).
	enqueueTimeout = time.Second
)

// definite says that a command surely was not applied and that it can be tried again, here or elsewhere.
type definite struct{ cause error }

func (e *definite) Error() string { return "not applied: " + e.cause.Error() }
func (e *definite) Unwrap() error { return e.cause }

var errClosing = errors.New("this server is stopping")

// outcome is how a proposal ended.
type outcome struct {
	result *fsm.Result
	err    error // *definite, or an *api.Error
}

// asker is who waits for a command.
type asker struct {
	own  bool   // the leader itself
	name string // "" of those that a server of the release before passes on, which does not say who they are
}

// askerOf tells callers apart: by their tokens, their certificates, or where they call from.
func askerOf(o *fsm.Origin) asker {
	switch {
	case o == nil:
		return asker{}
	case o.GetToken() != "":
		return asker{name: "token " + o.GetToken()}
	case identified(o):
		return asker{name: o.GetRole() + "/" + o.GetId()}
	}
	return asker{name: "anonymous " + o.GetSource()}
}

// proposal is a command on its way into the log.
type proposal struct {
	envelope []byte
	by       asker
	done     chan outcome // buffered, so that nobody waits for a caller that left
}

// committer packs waiting commands into log entries: one goroutine, one entry in flight, no lingering. While an entry is
// being written to a majority of disks the next one gathers, which is where the throughput comes from.
type committer struct {
	apply func(data []byte, timeout time.Duration) raft.ApplyFuture
	wake  chan struct{}

	mu      sync.Mutex // guards the rest
	waiting []*proposal
	by      map[asker]int // how many of those are whose; of nobody 0
	closed  bool
}

func newCommitter(apply func([]byte, time.Duration) raft.ApplyFuture) *committer {
	return &committer{apply: apply, wake: make(chan struct{}, 1), by: map[asker]int{}}
}

// submit puts an encoded envelope into the log of this server, which must be the leader. The error is *definite, or
// an *api.Error with LIMIT or OUTCOME_UNKNOWN.
func (c *committer) submit(ctx context.Context, envelope []byte, by asker) (*fsm.Result, error) {
	p := &proposal{envelope: envelope, by: by, done: make(chan outcome, 1)}
	if err := c.enqueue(p); err != nil {
		return nil, err
	}
	select {
	case o := <-p.done:
		return o.result, o.err
	case <-ctx.Done():
	}
	if c.giveUp(p) {
		return nil, &definite{ctx.Err()}
	}
	return nil, unknown("the caller stopped waiting while the command was being written to the log: %v", ctx.Err())
}

func (c *committer) enqueue(p *proposal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return &definite{errClosing}
	case p.by.own:
	case len(c.waiting)-c.by[asker{own: true}] >= maxWaiting:
		return &api.Error{Code: api.Limit, Detail: fmt.Sprintf("%d commands are waiting for the log, the limit is %d; try again later", maxWaiting, maxWaiting)}
	case p.by.name != "" && c.by[p.by] >= maxOfOne:
		return &api.Error{Code: api.Limit, Detail: fmt.Sprintf("%d commands of %q are waiting for the log, the limit for one caller is %d; send fewer at a time", c.by[p.by], p.by.name, maxOfOne)}
	}
	c.waiting = append(c.waiting, p)
	c.by[p.by]++
	signal(c.wake)
	return nil
}

// left notes that a proposal waits no more. mu is held.
func (c *committer) left(p *proposal) {
	if c.by[p.by]--; c.by[p.by] == 0 {
		delete(c.by, p.by)
	}
}

// waits is whether a command waits for the next entry.
func (c *committer) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting) > 0
}

// giveUp takes a proposal out of the queue; false when it is too late.
func (c *committer) giveUp(p *proposal) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := slices.Index(c.waiting, p)
	if at < 0 {
		return false
	}
	c.waiting = slices.Delete(c.waiting, at, at+1)
	c.left(p)
	return true
}

// run packs until ctx ends, then turns away everything that waits. The entry in flight is waited for, which has no
// deadline of its own (RAFT trap 4), so raft must still run then.
func (c *committer) run(ctx context.Context) {
	for ctx.Err() == nil {
		batch := c.take()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
			case <-c.wake:
			}
			continue
		}
		c.commit(batch)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, p := range c.waiting {
		p.done <- outcome{err: &definite{errClosing}}
	}
	c.waiting, c.by = nil, nil
}

// take returns what goes into the next entry: all that waits up to fsm.PackEntry, or one larger command alone.
func (c *committer) take() (batch []*proposal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := 0
	for len(c.waiting) > 0 {
		p := c.waiting[0]
		if len(batch) > 0 && size+len(p.envelope) > fsm.PackEntry {
			return batch
		}
		size += len(p.envelope)
		batch = append(batch, p)
		c.waiting[0] = nil
		c.waiting = c.waiting[1:]
		c.left(p)
	}
	return batch
}

func (c *committer) commit(batch []*proposal) {
	envelopes := make([][]byte, len(batch))
	for i, p := range batch {
		envelopes[i] = p.envelope
	}
	results, err := c.write(envelopes)
	for i, p := range batch {
		if err != nil {
			p.done <- outcome{err: err}
		} else {
			p.done <- outcome{result: results[i]}
		}
	}
}

// write brings one entry into the log and waits for it to be applied here.
func (c *committer) write(envelopes [][]byte) ([]*fsm.Result, error) {
	entry, err := fsm.EncodeEntry(time.Now().UnixMilli(), envelopes)
	if err != nil {
		return nil, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("a log entry of %d commands does not encode: %v", len(envelopes), err)}
	}
	future := c.apply(entry, enqueueTimeout)
	if err := future.Error(); err != nil {
		return nil, classify(err)
	}
	// What the state machine says comes back here, not in Error (RAFT trap 4).
	switch r := future.Response().(type) {
	case []*fsm.Result:
		if len(r) == len(envelopes) {
			return r, nil
		}
		return nil, unknown("the entry was applied with %d results for %d commands", len(r), len(envelopes))
	case error:
		return nil, unknown("the entry is in the log and this server could not apply it: %v", r)
	default:
		return nil, unknown("the entry was answered with a %T", r)
	}
}

// classify turns an error of raft into an outcome (RAFT trap 5). Leadership lost is unknown: the entry may be on a
// majority. So is an error of the store: that a write failed does not mean that it is not on the disk.
func classify(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return &definite{err}
	default:
		return unknown("%v", err)
	}
}

// unknown is the error of a command that may have been applied.
func unknown(format string, args ...any) *api.Error {
	return &api.Error{
		Code:   api.OutcomeUnknown,
		Detail: "the command may have been applied: " + fmt.Sprintf(format, args...) + "; try again with the same request id only",
	}
}

// signal wakes a goroutine that looks at everything whenever it wakes.
func signal(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
