package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/process"
)

// maxReply bounds the body of a reply in bytes: a full page of scopes is smaller.
const maxReply = 64 << 20

// ErrBackwards is wrapped by the error of a request that a server answered from
// an older state than an earlier one.
var ErrBackwards = errors.New("the state index went backwards")

// Ask is one request to one server. It is sent once, to no other server.
type Ask struct {
	Method, Path string
	Query        url.Values
	RequestID    string // "" sends none
	Body         any    // nil sends none
}

// Do sends the request to a server and reads the reply into out, unless nil.
// It returns the index of the state that answered. A refusal is an *api.Error;
// a request that never reached the server is one with code UNAVAILABLE, one
// whose fate is open has code OUTCOME_UNKNOWN.
func (c *Cluster) Do(ctx context.Context, id string, a Ask, out any) (uint64, error) {
	floor := c.seen(id, 0)
	req, err := c.request(ctx, id, a)
	if err != nil {
		return 0, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, lost(id, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return 0, lost(id, err)
	}
	index, err := strconv.ParseUint(resp.Header.Get(api.HeaderIndex), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s %s at %s: header %s is no index: %w", a.Method, a.Path, id, api.HeaderIndex, err)
	}
	if resp.StatusCode/100 != 2 {
		var e api.Error
		if err := json.Unmarshal(data, &e); err != nil || !e.Code.Known() {
			return index, fmt.Errorf("%s %s at %s: status %d without a code of ours: %.200q", a.Method, a.Path, id, resp.StatusCode, data)
		}
		return index, &e
	}
	// The floor is what was known before the request left: replies of requests
	// that ran at the same time may come in any order.
	if index < floor {
		return index, fmt.Errorf("%s %s at %s: %w, from %d to %d", a.Method, a.Path, id, ErrBackwards, floor, index)
	}
	c.seen(id, index)
	if out == nil {
		return index, nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return index, fmt.Errorf("%s %s at %s: %w in %.200q", a.Method, a.Path, id, err, data)
	}
	return index, nil
}

// seen notes an index a server answered with, and returns its highest so far.
func (c *Cluster) seen(id string, index uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.servers[id]
	s.index = max(s.index, index)
	return s.index
}

func (c *Cluster) request(ctx context.Context, id string, a Ask) (*http.Request, error) {
	var body io.Reader
	if a.Body != nil {
		data, err := json.Marshal(a.Body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	target := url.URL{Scheme: "http", Host: c.HTTP(id), Path: a.Path, RawQuery: a.Query.Encode()}
	req, err := http.NewRequestWithContext(ctx, a.Method, target.String(), body)
	if err != nil {
		return nil, err
	}
	if a.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.RequestID != "" {
		req.Header.Set(api.HeaderRequestID, a.RequestID)
	}
	return req, nil
}

func lost(id string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("server %s cannot be reached: %v", id, err)}
	}
	return &api.Error{Code: api.OutcomeUnknown, Detail: fmt.Sprintf("server %s did not answer: %v", id, err)}
}

// Get asks a server for path with pairs of query parameters.
func (c *Cluster) Get(ctx context.Context, id, path string, out any, pairs ...string) (uint64, error) {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return c.Do(ctx, id, Ask{Method: http.MethodGet, Path: path, Query: q}, out)
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
