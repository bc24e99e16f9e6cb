package rig

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// Tenure is a change of a scope's owner.
type Tenure struct {
	Scope    string
	Token    writes.Token
	Owner    string
	Takeover bool // by the fallback, and not by a move: writes may be lost
}

// World is what the registry's watch has told.
type World struct {
	Index    uint64
	Scopes   map[string]api.Scope
	Moves    map[string]api.Move
	Cleanups map[string]api.Cleanup // by node and prefix
	Cleaned  map[string]bool        // moves whose cleanup was pending, and is done
	Nodes    map[string]api.NodeState
}

// Step is a step of a move, as the log has it.
type Step string

// The steps. Begun is the start of a move, whether it copies first or not.
const (
	Begun    Step = "start"
	Quiesced Step = "quiesce"
	Shipped  Step = "shipped"
	Flipped  Step = "done"
	Cleaned  Step = "cleaned"
	// Anytime is no step: any moment from the start of a move on.
	Anytime Step = "anytime"
)

// Steps are those of a move, in order.
func Steps() []Step { return []Step{Begun, Quiesced, Shipped, Flipped, Cleaned} }

// Reached says whether a move has come to a step, as far as the watch has told. A
// move that was aborted is at no step.
func (w World) Reached(move string, s Step) bool {
	m, known := w.Moves[move]
	at := func(phase string) bool {
		return slices.ContainsFunc(m.Stamps, func(s api.Stamp) bool { return s.Phase == phase })
	}
	switch s {
	case Begun, Anytime:
		return known
	case Quiesced:
		return at("quiescing")
	case Shipped:
		return at("shipped")
	case Flipped:
		return at("done")
	default:
		return w.Cleaned[move]
	}
}

// Ended says whether a move has ended.
func (w World) Ended(move string) bool {
	m := w.Moves[move]
	return m.Phase == "done" || m.Phase == "aborted"
}

// Tracker follows the registry's watch. It is safe for use by many goroutines.
type Tracker struct {
	tenure  func(Tenure) // is told of each change of an owner
	mu      sync.Mutex   // guards the rest
	world   World
	epochs  map[string]uint64 // of scopes; kept over a gap
	more    bool              // the last item was a part of a snapshot
	news    chan struct{}
	resyncs int
}

// NewTracker knows nothing yet. tenure is called by the goroutine that calls Take.
func NewTracker(tenure func(Tenure)) *Tracker {
	return &Tracker{tenure: tenure, news: make(chan struct{}), epochs: map[string]uint64{}, world: World{Scopes: map[string]api.Scope{}, Moves: map[string]api.Move{},
		Cleanups: map[string]api.Cleanup{}, Cleaned: map[string]bool{}, Nodes: map[string]api.NodeState{}}}
}

// Follow takes the items of a watch until the context ends.
func (t *Tracker) Follow(ctx context.Context, c *client.Client) error {
	w := c.Watch(ctx, 0)
	defer w.Close()
	for {
		item, err := w.Next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the watch: %w", err)
		}
		t.Take(item, w.Resynced())
	}
}

// Take takes one item; anew says that it begins a snapshot that replaces all.
func (t *Tracker) Take(item api.WatchItem, anew bool) {
	t.mu.Lock()
	var told []Tenure
	if anew {
		t.resyncs++
		// What a snapshot does not have is gone. Moves that ended may be missing in it.
		t.world.Scopes, t.world.Cleanups = map[string]api.Scope{}, map[string]api.Cleanup{}
	}
	t.world.Index, t.more = item.Index, item.More
	for _, c := range item.Changes {
		if tenure, is := t.change(c); is {
			told = append(told, tenure)
		}
	}
	if !t.more {
		close(t.news)
		t.news = make(chan struct{})
	}
	t.mu.Unlock()
	for _, tenure := range told {
		t.tenure(tenure)
	}
}

func (t *Tracker) change(c api.Change) (tenure Tenure, is bool) {
	w, put := &t.world, c.Op == "put"
	switch {
	case c.Node != nil && put:
		w.Nodes[c.Node.ID] = *c.Node
	case c.Move != nil && put:
		w.Moves[c.Move.ID] = *c.Move
	case c.Cleanup != nil:
		key := c.Cleanup.Node + " " + c.Cleanup.Prefix
		delete(w.Cleanups, key)
		if put {
			w.Cleanups[key] = *c.Cleanup
		} else if c.Cleanup.Move != "" {
			w.Cleaned[c.Cleanup.Move] = true
		}
	case c.Scope != nil && put:
		was := t.epochs[c.Scope.Prefix]
		w.Scopes[c.Scope.Prefix], t.epochs[c.Scope.Prefix] = *c.Scope, c.Scope.Epoch
		tenure = Tenure{Scope: c.Scope.Prefix, Token: writes.Token{Incarnation: c.Scope.Incarnation, Epoch: c.Scope.Epoch}, Owner: c.Scope.Owner}
		// After a gap the cause is not told: then it is a takeover unless a move is known to have made the tenure.
		tenure.Takeover = was > 0 && c.Cause != "flip" && !t.moved(c.Scope.Epoch)
		return tenure, was != c.Scope.Epoch
	}
	return tenure, false
}

func (t *Tracker) moved(epoch uint64) bool {
	for m := range maps.Values(t.world.Moves) {
		if m.NewEpoch == epoch {
			return true
		}
	}
	return false
}

// World is a copy of what is known now.
func (t *Tracker) World() World {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.copied()
}

func (t *Tracker) copied() World {
	w := t.world
	w.Scopes, w.Moves, w.Nodes = maps.Clone(w.Scopes), maps.Clone(w.Moves), maps.Clone(w.Nodes)
	w.Cleanups, w.Cleaned = maps.Clone(w.Cleanups), maps.Clone(w.Cleaned)
	return w
}

// Resyncs is how often the watch had a gap.
func (t *Tracker) Resyncs() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.resyncs
}

// Await waits until what the watch has told is as wanted. The error says what it
// waited for, and why it was not so at the end: want returns "" or that.
func (t *Tracker) Await(ctx context.Context, what string, want func(World) string) (World, error) {
	began := time.Now()
	for {
		t.mu.Lock()
		world, news, more := t.copied(), t.news, t.more
		t.mu.Unlock()
		why := "the snapshot is not complete"
		if !more {
			if why = want(world); why == "" {
				return world, nil
			}
		}
		select {
		case <-news:
		case <-ctx.Done():
			return world, fmt.Errorf("waited %.1f s for %s: %s (the watch is at index %d)", time.Since(began).Seconds(), what, why, world.Index)
		}
	}
}
