package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/target"
)

// onNodes are the faults of data nodes.
func onNodes() []Fault {
	noded := func(t target.Target) bool { return len(t.Nodes()) > 0 }
	return []Fault{
		{Name: history.KillOwner, possible: noded, do: func(ctx context.Context, s *strike) error {
			return s.node(ctx, (*strike).anOwner, s.Target.Kill, s.Target.Start)
		}},
		{Name: history.KillTarget, possible: noded, do: func(ctx context.Context, s *strike) error {
			return s.node(ctx, (*strike).aTarget, s.Target.Kill, s.Target.Start)
		}},
		{Name: history.PauseOwner, possible: noded, do: func(ctx context.Context, s *strike) error {
			return s.node(ctx, (*strike).anOwner, s.Target.Pause, s.Target.Resume)
		}},
		{Name: history.CutOwner, possible: noded, do: func(ctx context.Context, s *strike) error {
			return s.node(ctx, (*strike).anOwner, s.Target.Cut, s.Target.Mend)
		}},
		{Name: history.KillNodes, possible: noded, do: killNodes},
	}
}

// lookTime bounds the look for a node that is as wanted, and lookEvery is the pause between two: a scope is on its way for some
// milliseconds only.
const lookTime, lookEvery = 15 * time.Second, 2 * time.Millisecond

// anOwner claims a node that owns a scope.
func (s *strike) anOwner(ctx context.Context) (string, error) {
	return s.whoever(ctx, func(owner, _ string) string { return owner })
}

// aTarget claims a node that a scope moves to just now.
func (s *strike) aTarget(ctx context.Context) (string, error) {
	id, err := s.whoever(ctx, func(_, to string) string { return to })
	if err != nil && s.rec.Together && ctx.Err() == nil {
		// Without a majority, which the others may have taken, nothing moves: then it is one that something will move to.
		return s.claim(s.shuffled(s.Target.Nodes())...)
	}
	return id, err
}

func (s *strike) whoever(ctx context.Context, which func(owner, to string) string) (string, error) {
	limit := lookTime
	if s.rec.Together {
		limit /= 10 // there is another one to take
	}
	looking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		owner, to, err := s.Owner(looking, s.rng.IntN(1000))
		if err != nil {
			last = err
		} else if id := which(owner, to); id != "" {
			if id, err = s.claim(id); err == nil {
				return id, nil
			}
			last = err
		}
		if pause(looking, lookEvery) != nil {
			return "", errors.Join(errors.New("no node was found to strike"), last, ctx.Err())
		}
	}
}

func (s *strike) node(ctx context.Context, whom func(*strike, context.Context) (string, error), hurt, undo func(context.Context, string) error) error {
	id, err := whom(s, ctx)
	if err != nil {
		return err
	}
	s.begins("%s", id)
	if err := hurt(ctx, id); err != nil {
		return err
	}
	err = s.active(ctx)
	if err == nil {
		s.look(false)
		err = s.lasts(ctx)
	}
	s.look(true)
	s.heals()
	return errors.Join(undo(ctx, id), err)
}

// killNodes kills all data nodes and starts them again.
func killNodes(ctx context.Context, s *strike) error {
	for range s.Target.Nodes() {
		if _, err := s.claim(s.Target.Nodes()...); err != nil {
			return err
		}
	}
	s.begins("%s", strings.Join(s.rec.Servers, ", "))
	for _, id := range s.rec.Servers {
		if err := s.Target.Kill(ctx, id); err != nil {
			return fmt.Errorf("killing %s: %w", id, err)
		}
	}
	err := s.active(ctx)
	if err == nil {
		err = s.lasts(ctx)
	}
	s.heals()
	for _, id := range s.shuffled(slices.Clone(s.rec.Servers)) {
		err = errors.Join(err, s.Target.Start(ctx, id))
	}
	return err
}
