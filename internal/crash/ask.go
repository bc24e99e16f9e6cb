package crash

import (
	"context"
	"errors"
	"fmt"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/direct"
	"github.com/scope-registry/scope-registry/internal/process"
)

// ErrBackwards is wrapped by the error of a request that a server answered from
// an older state than an earlier one.
var ErrBackwards = errors.New("the state index went backwards")

// Ask is one request to one server. It is sent once, to no other server.
type Ask = direct.Request

// Do sends the request to a server and reads the reply into out, unless nil.
// It returns the index of the state that answered. A refusal is an *api.Error;
// a request that never reached the server is one with code UNAVAILABLE, one
// whose fate is open has code OUTCOME_UNKNOWN.
func (c *Cluster) Do(ctx context.Context, id string, a Ask, out any) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	// The floor is what was known before the request left: replies of requests
	// that ran at the same time may come in any order.
	floor := c.seen(id, 0)
	reply, err := c.servers[id].api.Do(ctx, a, out)
	switch {
	case err != nil:
		return reply.Index, err
	case reply.Index < floor:
		return reply.Index, fmt.Errorf("%s %s at %s: %w, from %d to %d", a.Method, a.Path, id, ErrBackwards, floor, reply.Index)
	}
	c.seen(id, reply.Index)
	return reply.Index, nil
}

// seen notes an index a server answered with, and returns its highest so far.
func (c *Cluster) seen(id string, index uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.servers[id]
	s.index = max(s.index, index)
	return s.index
}

// Get asks a server for path with pairs of query parameters.
func (c *Cluster) Get(ctx context.Context, id, path string, out any, pairs ...string) (uint64, error) {
	return c.Do(ctx, id, direct.Get(path, pairs...), out)
}

// Wait asks ready again and again until it returns nil. It fails with the last
// answer when ctx ends, and at once when a server has crashed or an index went
// backwards, since both never mend.
func (c *Cluster) Wait(ctx context.Context, what string, ready func(context.Context) error) error {
	var last error
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrBackwards) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if ctx.Err() == nil || last == nil {
			last = err // the answer before the end says more than the end itself
		}
		if err := c.Crashed(); err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if process.Sleep(ctx, pollEvery) != nil {
			return fmt.Errorf("waiting for %s: %w: last answer: %w", what, ctx.Err(), last)
		}
	}
}

// WaitReady waits until all servers that were started say that they are ready.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for _, id := range c.ids {
		if !c.Running(id) {
			continue
		}
		if err := c.Wait(ctx, "server "+id+" to be ready", func(ctx context.Context) error {
			_, err := c.Get(ctx, id, "/readyz", nil)
			return err
		}); err != nil {
			return fmt.Errorf("%w\nlog of %s:\n%s", err, id, c.Logs(id))
		}
	}
	return nil
}

// WaitEqual waits until all three servers are ready and have the same state
// hash at the same index, and returns the status that shows it.
func (c *Cluster) WaitEqual(ctx context.Context) (api.Cluster, error) {
	var out api.Cluster
	if err := c.WaitReady(ctx); err != nil {
		return out, err
	}
	err := c.Wait(ctx, "three equal states", func(ctx context.Context) error {
		out = api.Cluster{}
		if _, err := c.Get(ctx, c.ids[0], "/v1/cluster", &out, "hash", "true"); err != nil {
			return err
		}
		return equal(out)
	})
	return out, err
}

func equal(status api.Cluster) error {
	if len(status.Members) != Size {
		return fmt.Errorf("the cluster shows %d members, not %d", len(status.Members), Size)
	}
	first := status.Members[0]
	for _, m := range status.Members {
		switch {
		case m.Error != "":
			return fmt.Errorf("member %s: %s", m.ID, m.Error)
		case !m.Ready:
			return fmt.Errorf("member %s is not ready", m.ID)
		case m.Index != first.Index:
			return fmt.Errorf("member %s is at index %d, %s at %d", m.ID, m.Index, first.ID, first.Index)
		case m.StateHash == "" || m.StateHash != first.StateHash:
			return fmt.Errorf("member %s has hash %q, %s %q, at index %d", m.ID, m.StateHash, first.ID, first.StateHash, m.Index)
		}
	}
	return nil
}

// Leader waits until a server names a leader that runs, and returns its id.
func (c *Cluster) Leader(ctx context.Context) (string, error) {
	leader := ""
	err := c.Wait(ctx, "a leader", func(ctx context.Context) error {
		var last error
		for _, id := range c.ids {
			if !c.Running(id) {
				continue
			}
			var status api.Cluster
			if _, err := c.Get(ctx, id, "/v1/cluster", &status); err != nil {
				last = err
				continue
			}
			if _, ok := c.servers[status.Leader]; ok && c.Running(status.Leader) {
				leader = status.Leader
				return nil
			}
			last = fmt.Errorf("server %s names %q as the leader", id, status.Leader)
		}
		return last
	})
	return leader, err
}
