package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
)

// stamps are when the phases of a move were seen by a watch of this process.
type stamps struct {
	id                       string
	quiescing, shipped, done time.Time
	all                      chan struct{} // closed when done is set
}

// phases watches the moves through one server.
type phases struct {
	end   context.CancelFunc
	ended sync.WaitGroup
	mu    sync.Mutex // guards now and what it points to
	now   *stamps
}

func startPhases(ctx context.Context, c *client.Client) *phases {
	ctx, end := context.WithCancel(ctx)
	p := &phases{end: end, now: &stamps{}}
	p.ended.Go(func() {
		watch := c.Watch(ctx, 0)
		defer watch.Close()
		for {
			item, err := watch.Next()
			if err != nil {
				return // closed; who waits has a bound of its own
			}
			at := time.Now()
			for _, c := range item.Changes {
				if c.Move != nil {
					p.saw(c.Move.ID, c.Move.Phase, at)
				}
			}
		}
	})
	return p
}

func (p *phases) stop() {
	p.end()
	p.ended.Wait()
}

func (p *phases) saw(id, phase string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.id != id {
		return
	}
	switch phase {
	case "quiescing":
		p.now.quiescing = at
	case "shipped":
		p.now.shipped = at
	case "done":
		p.now.done = at
		close(p.now.all)
	}
}

// expect begins to look at a move.
func (p *phases) expect(id string) *stamps {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = &stamps{id: id, all: make(chan struct{})}
	return p.now
}

// wait returns the stamps once the move is done and seen.
func (s *stamps) wait(ctx context.Context) (*stamps, error) {
	select {
	case <-s.all:
	case <-ctx.Done():
		return nil, errors.Join(errors.New("the watch has not shown the end of move "+s.id), ctx.Err())
	}
	if s.quiescing.IsZero() || s.shipped.IsZero() {
		return nil, errors.New("the watch left out a phase of move " + s.id)
	}
	return s, nil
}
