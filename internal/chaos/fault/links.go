package fault

import (
	"context"
	"errors"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/target"
	"github.com/scope-registry/scope-registry/internal/link"
)

// lossy is the part that is lost of what is sent over a lossy link.
const lossy = 0.1

// leastDelay and mostDelay bound what a slow link takes, one way.
const leastDelay, mostDelay = 5 * time.Millisecond, 300 * time.Millisecond

// onLinks are the faults of single directions between servers.
func onLinks() []Fault {
	linked := func(t target.Target) bool { return netOf(t) != nil }
	return []Fault{
		{Name: history.DeafLeader, possible: linked, do: func(ctx context.Context, s *strike) error {
			return s.oneWay(ctx, func(leader, other string) link.Way { return link.Way{From: other, To: leader} })
		}},
		{Name: history.MuteLeader, possible: linked, do: func(ctx context.Context, s *strike) error {
			return s.oneWay(ctx, func(leader, other string) link.Way { return link.Way{From: leader, To: other} })
		}},
		{Name: history.SlowLeader, possible: linked, do: func(ctx context.Context, s *strike) error {
			id, err := s.theLeader()
			if err != nil {
				return err
			}
			return s.slow(ctx, between(id, without(s.Target.Servers(), id)))
		}},
		{Name: history.SlowAll, possible: linked, do: func(ctx context.Context, s *strike) error {
			s.rec.Servers = s.Target.Servers()
			return s.slow(ctx, amongAll(s.rec.Servers))
		}},
		{Name: history.LossyAll, possible: linked, do: func(ctx context.Context, s *strike) error {
			s.rec.Servers = s.Target.Servers()
			s.begins("%v", s.rec.Servers)
			return s.shaped(ctx, amongAll(s.rec.Servers), func() link.State { return link.State{Loss: lossy} })
		}},
		{Name: history.HalfOpen, possible: linked, do: halfOpen},
	}
}

// netOf is the network of a target; nil if it has none that can be changed.
func netOf(t target.Target) *link.Net {
	if l, ok := t.(target.Linked); ok {
		return l.Net()
	}
	return nil
}

// between are both directions between a machine and others.
func between(id string, others []string) (out []link.Way) {
	for _, other := range others {
		w := link.Way{From: id, To: other}
		out = append(out, w, w.Back())
	}
	return out
}

// amongAll are all directions between some machines.
func amongAll(all []string) (out []link.Way) {
	for i, id := range all {
		out = append(out, between(id, all[i+1:])...)
	}
	return out
}

// set changes directions, and notes that this fault did.
func (s *strike) set(ways []link.Way, state func() link.State) {
	n := netOf(s.Target)
	for _, w := range ways {
		st := state()
		n.SetFor(s, w, st)
		s.rec.Ways = append(s.rec.Ways, history.Way{From: w.From, To: w.To, Cut: st.Cut, DelayMS: st.Delay.Milliseconds()})
		if st.Loss > 0 {
			s.rec.Ways[len(s.rec.Ways)-1].DelayMS = link.Resend.Milliseconds()
		}
	}
}

// mend makes the directions whole that this fault has changed.
func (s *strike) mend() {
	n := netOf(s.Target)
	for _, w := range s.rec.Ways {
		n.SetFor(s, link.Way{From: w.From, To: w.To}, link.State{})
	}
}

// look notes what the links between the struck machine and the servers have
// carried, when the fault is in force and when it is about to be undone.
func (s *strike) look(atEnd bool) {
	n := netOf(s.Target)
	if n == nil {
		return
	}
	if len(s.rec.Ways) == 0 && !atEnd && len(s.rec.Servers) == 1 {
		id := s.rec.Servers[0]
		for _, w := range between(id, without(s.Target.Servers(), id)) {
			s.rec.Ways = append(s.rec.Ways, history.Way{From: w.From, To: w.To})
		}
	}
	for i := range s.rec.Ways {
		w := &s.rec.Ways[i]
		if carried := n.Carried(link.Way{From: w.From, To: w.To}); atEnd {
			w.Heal, w.SlowestMS = carried, n.Slowest(link.Way{From: w.From, To: w.To}).Milliseconds()
		} else {
			w.Active = carried
		}
	}
}

func (s *strike) oneWay(ctx context.Context, way func(leader, other string) link.Way) error {
	id, err := s.theLeader()
	if err != nil {
		return err
	}
	s.begins("%s", id)
	var ways []link.Way
	for _, other := range without(s.Target.Servers(), id) {
		ways = append(ways, way(id, other))
	}
	s.set(ways, func() link.State { return link.State{Cut: true} })
	defer s.mend()
	err = s.active(ctx)
	if err == nil {
		s.look(false)
		err = s.succeeded(ctx)
	}
	if err == nil {
		err = s.lasts(ctx)
	}
	s.look(true)
	s.heals()
	return err
}

// slow delays what is sent in some directions, each by a time of its own.
func (s *strike) slow(ctx context.Context, ways []link.Way) error {
	most := leastDelay + time.Duration(s.rng.Int64N(int64(mostDelay-leastDelay)))
	s.begins("%v, up to %v each way", s.rec.Servers, most.Round(time.Millisecond))
	return s.shaped(ctx, ways, func() link.State { return link.State{Delay: leastDelay + time.Duration(s.rng.Int64N(int64(most)))} })
}

// shaped changes some directions, each by a state of its own, for the fault's time.
func (s *strike) shaped(ctx context.Context, ways []link.Way, state func() link.State) error {
	s.set(ways, state)
	defer s.mend()
	err := s.active(ctx)
	if err == nil {
		s.look(false)
		err = s.lasts(ctx)
	}
	s.look(true)
	s.heals()
	return err
}

// halfOpen ends the leader while it is cut off: the others keep connections to a
// process that is gone, and hear of it only when the link is mended.
func halfOpen(ctx context.Context, s *strike) error {
	id, err := s.theLeader()
	if err != nil {
		return err
	}
	s.begins("%s", id)
	s.set(between(id, without(s.Target.Servers(), id)), func() link.State { return link.State{Cut: true} })
	defer s.mend()
	if err := s.Target.Kill(ctx, id); err != nil {
		return err
	}
	err = s.active(ctx)
	if err == nil {
		s.look(false)
		err = s.succeeded(ctx)
	}
	if err == nil {
		err = s.lasts(ctx)
	}
	s.look(true)
	s.heals()
	return errors.Join(s.Target.Start(ctx, id), err)
}
