package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

const (
	// serverTime is how long a server goes on with a change whose client has gone.
	serverTime = 10 * time.Second
	// restTime bounds coming to rest, after all faults are healed.
	restTime = time.Minute
	// restPoll is the pause between two looks.
	restPoll = 100 * time.Millisecond
)

// Finish ends what the clients left unfinished, reads every scope at every
// server once more, and waits until all states are equal and every watch has
// told them. Stop comes before.
func (w *Workload) Finish(ctx context.Context) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, restTime)
	defer cancel()
	last := w.client("last", w.cfg.Servers[0], 1000)
	for _, prefix := range w.prefixes {
		for {
			op := last.tidy(ctx, prefix)
			if op.Outcome == history.Refused || op.Outcome == history.OK && op.Got.Scope.Move == "" && len(op.Got.Scope.Cleanups) == 0 {
				break
			}
			if !pause(ctx, nil, restPoll) {
				return fmt.Errorf("scope %s did not come to rest: %s %s", prefix, op.Outcome, op.Detail)
			}
		}
	}
	for i, s := range w.cfg.Servers {
		if err := w.readAll(ctx, w.client("last-"+s.ID(), s, uint64(1001+i))); err != nil {
			return err
		}
	}
	return w.rest(ctx)
}

// settle waits until no server can still be at work on a change of which nobody
// knows how it ended.
func (w *Workload) settle(ctx context.Context) error {
	until := time.Duration(0)
	for _, op := range w.cfg.Log.Run().Ops {
		if op.Outcome == history.Unknown {
			until = max(until, op.Return+serverTime)
		}
	}
	if !pause(ctx, nil, max(0, until-w.cfg.Log.Now())) {
		return ctx.Err()
	}
	return nil
}

func (w *Workload) readAll(ctx context.Context, c *client) error {
	for _, prefix := range c.prefixes {
		for {
			op := c.read(ctx, history.Read, prefix)
			if op.Outcome == history.OK || op.Outcome == history.Refused {
				break
			}
			if !pause(ctx, nil, restPoll) {
				return fmt.Errorf("the last read of %s at %s: %s", prefix, c.srv.ID(), op.Detail)
			}
		}
	}
	return nil
}

// rest waits until the servers are ready and equal, and the watches are there.
// What the servers said last is recorded as the end, also when it is no rest.
func (w *Workload) rest(ctx context.Context) error {
	s := w.cfg.Servers[0]
	end := history.Sample{Server: s.ID(), Final: true}
	for {
		c, err := s.Status(ctx)
		if err == nil {
			end.At, end.Cluster = w.cfg.Log.Now(), c
			err = w.atRest(c)
		}
		if err != nil && pause(ctx, nil, restPoll) {
			continue
		}
		w.cfg.Log.Sample(end)
		if err != nil {
			return fmt.Errorf("the servers did not come to rest within %v: %w", restTime, err)
		}
		return nil
	}
}

// atRest says what is still different. Hashes are not compared here: servers
// whose hashes differ at one index never come to rest, and are for the checkers.
func (w *Workload) atRest(c api.Cluster) error {
	for _, m := range c.Members {
		if m.Error != "" || !m.Ready || m.Index != c.Index {
			return fmt.Errorf("server %s is at index %d of %d, ready %v %s", m.ID, m.Index, c.Index, m.Ready, m.Error)
		}
	}
	for id, reached := range w.reached {
		if reached.Load() < c.Index {
			return fmt.Errorf("the watch of %s has told %d of %d", id, reached.Load(), c.Index)
		}
	}
	return nil
}
