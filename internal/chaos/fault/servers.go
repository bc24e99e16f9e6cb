package fault

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/target"
)

// onServers are the faults that end servers, or have them stand still.
func onServers() []Fault {
	return []Fault{
		{Name: history.Kill, do: func(ctx context.Context, s *strike) error {
			return s.one(ctx, (*strike).theLeader, s.Target.Kill, s.Target.Start, true)
		}},
		{Name: history.Pause, do: func(ctx context.Context, s *strike) error {
			return s.one(ctx, (*strike).theLeader, s.Target.Pause, s.Target.Resume, true)
		}},
		{Name: history.Partition, do: func(ctx context.Context, s *strike) error {
			return s.one(ctx, (*strike).theLeader, s.Target.Cut, s.Target.Mend, true)
		}},
		{Name: history.KillFollower, do: func(ctx context.Context, s *strike) error {
			return s.one(ctx, (*strike).aFollower, s.Target.Kill, s.Target.Start, false)
		}},
		{Name: history.PauseFollower, do: func(ctx context.Context, s *strike) error {
			return s.one(ctx, (*strike).aFollower, s.Target.Pause, s.Target.Resume, false)
		}},
		{Name: history.CutFollower, do: func(ctx context.Context, s *strike) error {
			return s.one(ctx, (*strike).aFollower, s.Target.Cut, s.Target.Mend, false)
		}},
		{Name: history.KillMajority, do: func(ctx context.Context, s *strike) error { return s.many(ctx, 2) }},
		{Name: history.KillAll, do: func(ctx context.Context, s *strike) error { return s.many(ctx, len(s.Target.Servers())) }},
		{Name: history.Rolling, do: rolling},
		{Name: history.Transfer, do: transfer},
		{Name: history.Readdress, do: readdress, possible: func(t target.Target) bool {
			r, ok := t.(target.Readdressed)
			return ok && r.Readdresses()
		}},
	}
}

// one strikes one server, and undoes it once the time is over and, if it led, the
// others have a leader of their own.
func (s *strike) one(ctx context.Context, whom func(*strike) (string, error), hurt, undo func(context.Context, string) error, led bool) error {
	id, err := whom(s)
	if err != nil {
		return err
	}
	s.begins("%s", id)
	if err := hurt(ctx, id); err != nil {
		return err
	}
	err = s.active(ctx)
	if err == nil {
		s.rec.Silent = !s.answers(ctx, id)
		s.look(false)
		if led {
			err = s.succeeded(ctx)
		}
	}
	if err == nil {
		err = s.lasts(ctx)
	}
	s.look(true)
	s.heals()
	return errors.Join(undo(ctx, id), err)
}

// many kills the leader and others, so many in all, at once, and starts them again.
func (s *strike) many(ctx context.Context, n int) error {
	for range n {
		if _, err := s.theLeader(); err != nil {
			return err
		}
	}
	s.begins("%s", strings.Join(s.rec.Servers, " and "))
	for _, id := range s.rec.Servers {
		if err := s.Target.Kill(ctx, id); err != nil {
			return err
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

// rolling stops and starts every server, each when the one before is ready again.
func rolling(ctx context.Context, s *strike) error {
	for range s.Target.Servers() {
		if _, err := s.aServer(); err != nil {
			return err
		}
	}
	s.begins("%s", strings.Join(s.rec.Servers, ", then "))
	s.rec.Active = s.Now()
	for _, id := range s.rec.Servers {
		if err := s.Target.Stop(ctx, id); err != nil {
			return err
		}
		if err := s.inspect(ctx, s.rec.During, id); err != nil {
			return err
		}
		if err := errors.Join(pause(ctx, s.Hold/time.Duration(2*len(s.rec.Servers))), s.Target.Start(ctx, id)); err != nil {
			return err
		}
		if err := s.WaitReady(ctx); err != nil {
			return err
		}
	}
	s.heals()
	return nil
}

// aServer claims any server.
func (s *strike) aServer() (string, error) { return s.claim(s.shuffled(s.Target.Servers())...) }

// transfer has an operator make another server the leader.
func transfer(ctx context.Context, s *strike) error {
	to, err := s.aFollower()
	if err != nil {
		return err
	}
	s.begins("to %s", to)
	if err := s.active(ctx); err != nil {
		return err
	}
	if err := s.transferTo(ctx, to); err != nil {
		return err
	}
	if !s.rec.Together {
		if s.rec.Elected, err = s.leader(ctx, s.Target.Servers()); err != nil {
			return err
		}
		s.rec.ElectedAt = s.Now()
	}
	err = s.lasts(ctx)
	s.heals()
	return err
}

// readdress stops the leader and another server, and starts the one with the
// higher address first: keepers of containers give out the lowest free address,
// or one that was not used for longest, and either way both get another one.
func readdress(ctx context.Context, s *strike) error {
	for range 2 {
		if _, err := s.theLeader(); err != nil {
			return err
		}
	}
	s.begins("stop of %s, to start both with other addresses", strings.Join(s.rec.Servers, " and "))
	for _, id := range s.rec.Servers {
		if err := s.Target.Stop(ctx, id); err != nil {
			return err
		}
	}
	slices.SortFunc(s.rec.Servers, func(a, b string) int { return compareAddresses(s.rec.Before[b].Peer, s.rec.Before[a].Peer) })
	for _, id := range s.rec.Servers {
		if err := s.Target.Start(ctx, id); err != nil {
			return err
		}
	}
	if err := s.inspect(ctx, s.rec.During, s.rec.Servers...); err != nil {
		return err
	}
	if err := s.WaitReady(ctx); err != nil {
		return err
	}
	s.rec.Active = s.Now()
	err := pause(ctx, s.Hold)
	s.heals()
	return err
}
