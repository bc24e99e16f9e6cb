package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/process"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// moveTime bounds one move of an empty scope, far above its window.
	moveTime = 20 * time.Second
	// writeEvery is the pause of the writer between two tries. With none it would take a core from the servers; the gap
	// is measured to this and what a wake-up costs. A timer of Go is too coarse: it waits a millisecond at least.
	writeEvery = 50 * time.Microsecond
)

// side is one kind of server to work through, with the two nodes and the watchers that see only it.
type side struct {
	name     string
	c        *client.Client
	from, to *node
	probe    *probe
	phases   *phases
	moved    int

	commit, delay, both         sample // of plain mutations
	quiesced, gap               sample // of moves
	started, shipped, done, end sample // phases of moves
}

// moves measures how long a move of an empty scope keeps it closed, beside what one mutation takes through the same server.
func moves(ctx context.Context, r *report, ours *registry, o options, dir string) (err error) {
	var sides []*side
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.stop())
		}
	}()
	for _, x := range []struct {
		name string
		at   int
	}{{"the leader", ours.leader}, {"a follower", ours.follower()}} {
		s, err := startSide(ctx, x.name, ours.urls[x.at], dir)
		if err != nil {
			return err
		}
		sides = append(sides, s)
	}
	for range o.moves {
		for _, s := range sides {
			if err := s.mutation(ctx); err != nil {
				return fmt.Errorf("a mutation through %s: %w", s.name, err)
			}
			if err := s.move(ctx); err != nil {
				return fmt.Errorf("a move through %s: %w", s.name, err)
			}
		}
	}
	for _, s := range sides {
		s.report(r)
	}
	return r.err
}

func startSide(ctx context.Context, name, url, dir string) (*side, error) {
	s := &side{name: name, c: client.New([]string{url})}
	tag := map[bool]string{true: "l", false: "f"}[name == "the leader"]
	var err error
	if s.from, err = startNode(ctx, "from-"+tag, url, dir); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if s.to, err = startNode(ctx, "to-"+tag, url, dir); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if s.probe, err = startProbe(ctx, s.c, "probe-"+tag); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.phases = startPhases(ctx, s.c)
	return s, nil
}

func (s *side) stop() error {
	var errs []error
	if s.phases != nil {
		s.phases.stop()
	}
	if s.probe != nil {
		s.probe.stop()
	}
	for _, n := range []*node{s.to, s.from} {
		if n != nil {
			errs = append(errs, n.stop())
		}
	}
	s.c.Close()
	return errors.Join(errs...)
}

// quiet lets the cluster come to rest.
func quiet(ctx context.Context) error {
	return process.Sleep(ctx, between+rand.N(between))
}

// mutation changes an address and waits until the mirror has it.
func (s *side) mutation(ctx context.Context) error {
	if err := quiet(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	seen := s.probe.expect()
	began := time.Now()
	if err := s.probe.change(ctx); err != nil {
		return err
	}
	answered := time.Now()
	at, err := s.probe.wait(ctx, seen)
	if err != nil {
		return err
	}
	s.commit = append(s.commit, answered.Sub(began))
	s.delay = append(s.delay, at.Sub(answered))
	s.both = append(s.both, max(answered.Sub(began), at.Sub(began)))
	return nil
}

// move moves a scope of its own, so that no old copy is in the way, while a writer tries both nodes.
func (s *side) move(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	s.moved++
	prefix := scope.Prefix(fmt.Sprintf("%s-%d:", s.from.id, s.moved))
	declared, err := s.c.Declare(ctx, prefix, api.Declare{Writer: s.from.id}, 0)
	if err != nil {
		return err
	}
	for _, n := range []*node{s.from, s.to} {
		if err := n.has(ctx, declared.Index); err != nil {
			return err
		}
	}
	wrote := make(chan gap, 1)
	go func() { wrote <- s.write(ctx, []byte(prefix+"key")) }()
	if err := quiet(ctx); err != nil {
		return err
	}
	id := fmt.Sprintf("move-%s-%d", s.from.id, s.moved)
	stamps := s.phases.expect(id)
	began := time.Now()
	if _, err := s.c.StartMove(ctx, api.StartMove{ID: id, Prefix: prefix.Text(), From: s.from.id, To: s.to.id}); err != nil {
		return err
	}
	w := <-wrote
	if w.err != nil {
		return w.err
	}
	m, err := s.c.Move(ctx, id, moveTime/2)
	if err != nil {
		return err
	}
	if m.Phase != "done" {
		return fmt.Errorf("move %s is %s: %s %s", id, m.Phase, m.Cause, m.Detail)
	}
	p, err := stamps.wait(ctx)
	if err != nil {
		return err
	}
	s.quiesced = append(s.quiesced, time.Duration(m.QuiescedMS)*time.Millisecond)
	s.gap = append(s.gap, w.first.Sub(w.last))
	s.started = append(s.started, p.quiescing.Sub(began))
	s.shipped = append(s.shipped, p.shipped.Sub(p.quiescing))
	s.done = append(s.done, p.done.Sub(p.shipped))
	s.end = append(s.end, w.first.Sub(p.done))
	return nil
}

// gap is the time in which nobody could write.
type gap struct {
	last, first time.Time // acknowledgement at the source, at the target
	err         error
}

// write writes at the source until it refuses, then tries both until the target acknowledges.
func (s *side) write(ctx context.Context, key []byte) gap {
	var g gap
	nothing := func(context.Context, client.Token) error { return nil }
	step := unix.NsecToTimespec(int64(writeEvery))
	for ctx.Err() == nil {
		if err := s.from.session.Guard().Write(ctx, key, nothing); err == nil {
			g.last = time.Now()
		} else if err := s.to.session.Guard().Write(ctx, key, nothing); err == nil {
			g.first = time.Now()
			if g.last.IsZero() {
				g.err = errors.New("the source never took a write")
			}
			return g
		}
		_ = unix.Nanosleep(&step, nil) // a signal may end it early
	}
	g.err = fmt.Errorf("neither node takes a write: %w", ctx.Err())
	return g
}

func (s *side) report(r *report) {
	r.heading("All through " + s.name)
	r.samples("what", "ms")
	ms := time.Millisecond
	r.sampleRow("commit: a plain mutation until its answer", s.commit, ms)
	r.sampleRow("watch delay: from its answer until a mirror has it (negative: before)", s.delay, ms)
	r.sampleRow("commit + watch delay: until it is answered and the mirror has it", s.both, ms)
	r.sampleRow("move: quiesced, as the registry records it (whole ms)", s.quiesced, ms)
	r.sampleRow("move: last write acknowledged at the source → first at the target", s.gap, ms)
	r.sampleRow("… start sent → closing seen", s.started, ms)
	r.sampleRow("… closing seen → shipped seen", s.shipped, ms)
	r.sampleRow("… shipped seen → done seen", s.done, ms)
	r.sampleRow("… done seen → first write at the target", s.end, ms)
	r.line("")
	r.header("ratio to commit + watch delay (target: 3)", "p50", "p99")
	for _, x := range []struct {
		name string
		s    sample
	}{{"quiesced", s.quiesced}, {"last write → first write", s.gap}} {
		r.row(x.name, ratio(x.s.median(), s.both.median()), ratio(x.s.at(0.99), s.both.at(0.99)))
	}
}

func ratio(a, b time.Duration) string {
	if b <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}
