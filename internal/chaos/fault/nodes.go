package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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

// looks bounds how often it is looked for a node that is as wanted.
const looks = 200

// anOwner claims a node that owns a scope.
func (s *strike) anOwner(ctx context.Context) (string, error) {
	return s.whoever(ctx, func(owner, _ string) string { return owner })
}

// aTarget claims a node that a scope moves to just now.
func (s *strike) aTarget(ctx context.Context) (string, error) {
	return s.whoever(ctx, func(_, to string) string { return to })
}

func (s *strike) whoever(ctx context.Context, which func(owner, to string) string) (string, error) {
	var last error
	for range looks {
		owner, to, err := s.Owner(ctx, s.rng.IntN(1000))
		if err != nil {
			last = err
		} else if id := which(owner, to); id != "" {
			if id, err = s.claim(id); err == nil {
				return id, nil
			}
			last = err
		}
		if err := pause(ctx, pollEvery/5); err != nil {
			return "", err
		}
	}
	return "", errors.Join(errors.New("no node was found to strike"), last)
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
