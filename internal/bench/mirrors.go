package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	// warmUp is how many changes of a round are not measured.
	warmUp = 5
	// between is the pause between two changes, at least; up to as much again is added by chance, so that changes do not
	// fall into step with heartbeats. Then what they pass through is in no cache any more, and the disk may have dozed off.
	between = 20 * time.Millisecond
	// arriveTime bounds how long one change may take to all watchers, and all watchers to be on.
	arriveTime = 30 * time.Second
)

// system is something whose changes many follow.
type system interface {
	name() string
	// watch is watcher i of a round, with a connection of its own, until ctx ends. It calls live once, when it gets every
	// later change, and seen for each change.
	watch(ctx context.Context, i int, live func(), seen func(seq uint64)) error
	// change makes change number seq, from 1, and returns when it is acknowledged.
	change(ctx context.Context, seq uint64) error
	// resident is the memory of its servers in bytes.
	resident() (uint64, error)
	stop() error
}

// pace is how changes follow each other: each begins when all watchers have the one before, or after a pause from then on.
type pace struct {
	name  string
	pause time.Duration // at least; twice as long at most
}

var (
	rested = pace{fmt.Sprintf("each after a pause of %v to %v", between, 2*between), between}
	atOnce = pace{"each as soon as all watchers have the one before", 0}
)

// watched is what was measured of one system.
type watched struct {
	system
	seq      uint64 // of the last change
	paces    []*paced
	inClient uint64 // bytes in this process for each watcher
	inServer uint64 // bytes in all servers for each watcher
}

// paced is what was measured at one pace.
type paced struct {
	pace
	rounds []sample // change to event, one per watcher and change
	event  sample   // all of them
	all    sample   // change to the last event
	answer sample   // change to its answer
}

func newWatched(s system, seq uint64, paces ...pace) *watched {
	w := &watched{system: s, seq: seq}
	for _, p := range paces {
		w.paces = append(w.paces, &paced{pace: p})
	}
	return w
}

// mirrors has some numbers of watchers follow the changes of each system, in turns.
func mirrors(ctx context.Context, r *report, systems []system, o options) error {
	seqs := map[system]uint64{} // of the last changes
	for _, n := range o.mirrors {
		var all []*watched
		for _, s := range systems {
			all = append(all, newWatched(s, seqs[s], rested, atOnce))
		}
		for round := range o.rounds {
			for _, w := range all {
				if err := w.round(ctx, round, n, o.events, round == 0); err != nil {
					return fmt.Errorf("round %d of %s with %d watchers: %w", round+1, w.name(), n, err)
				}
				seqs[w.system] = w.seq
			}
		}
		reportMirrors(r, all, n, o)
	}
	return r.err
}

// mirrorTargets are what our p50 should be of etcd's at most, by the number of watchers.
var mirrorTargets = map[int]string{1: "1.0", 100: "0.8", 1000: "0.6"}

func reportMirrors(r *report, all []*watched, n int, o options) {
	for i, p := range all[0].paces {
		r.heading(fmt.Sprintf("%d watchers, changes %s", n, p.name))
		r.line("%d rounds in turns, %d changes in each, through the leader; each watcher with a connection of its own, over %d servers.\n", o.rounds, o.events, servers)
		r.header("change →, ms", "its answer: p50", "p99", "event at a watcher: p50", "p99", "max", "p50 of each round", "event at all watchers: p50", "p99")
		for _, w := range all {
			p := w.paces[i]
			r.row(w.name(), inMS(p.answer.median()), inMS(p.answer.at(0.99)), inMS(p.event.median()), inMS(p.event.at(0.99)), inMS(p.event.at(1)), p.each(0.5), inMS(p.all.median()), inMS(p.all.at(0.99)))
		}
		r.line("")
		reportRatios(r, all, i, n)
	}
	r.line("")
	r.header(fmt.Sprintf("memory for each of %d watchers, KiB", n), "the client's process", "all servers")
	for _, w := range all {
		r.row(w.name(), fmt.Sprintf("%.0f", float64(w.inClient)/1024), fmt.Sprintf("%.0f", float64(w.inServer)/1024))
	}
}

func reportRatios(r *report, all []*watched, pace, n int) {
	r.header("of the rounds: median (least – most)", "p50 at a watcher", "target, at most", "p99 at a watcher", "p50 at all watchers")
	for _, w := range all {
		if _, ours := w.system.(*mirrored); !ours {
			continue
		}
		for _, other := range all {
			target := ""
			switch other.system.(type) {
			case *etcd:
				target = mirrorTargets[n]
			case *bare:
			default:
				continue
			}
			p, of := w.paces[pace], other.paces[pace]
			r.row(w.name()+" / "+other.name(), p.ratio(of, 0.5), target, p.ratio(of, 0.99), fmt.Sprintf("%.2f", float64(p.all.median())/float64(of.all.median())))
		}
	}
}

func inMS(d time.Duration) string { return in(d, time.Millisecond) }

// ratio of a quantile in each round to that of another system.
func (p *paced) ratio(other *paced, q float64) string {
	var of []float64
	for i := range p.rounds {
		of = append(of, float64(p.rounds[i].at(q))/float64(other.rounds[i].at(q)))
	}
	return spreadOf(of, "%.2f")
}

// each is a quantile of each round.
func (p *paced) each(q float64) string {
	out := ""
	for _, s := range p.rounds {
		out += in(s.at(q), time.Millisecond) + " "
	}
	return out[:max(0, len(out)-1)]
}

// round starts n watchers, makes changes and ends the watchers. The first watcher is at another server in each round: a
// single one is at a leader as often as watchers are.
func (w *watched) round(ctx context.Context, round, n, changes int, weigh bool) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	clientBefore, serverBefore, err := w.weight()
	if err != nil {
		cancel()
		return err
	}
	got := newArrivals(n)
	var watchers sync.WaitGroup
	for i := range n {
		watchers.Go(func() {
			err := w.watch(ctx, round+i, got.live(i), func(seq uint64) { got.seen(i, seq, time.Now()) })
			if ctx.Err() == nil { // else the round is over
				got.ended(err)
			}
		})
	}
	defer func() {
		cancel()
		watchers.Wait()
	}()
	if err := got.wait(ctx); err != nil {
		return fmt.Errorf("starting %d watchers: %w", n, err)
	}
	for _, p := range w.paces {
		if err := w.changes(ctx, p, changes, got); err != nil {
			return err
		}
	}
	if !weigh {
		return nil
	}
	client, server, err := w.weight()
	w.inClient, w.inServer = over(client, clientBefore, n), over(server, serverBefore, n)
	return err
}

// changes makes some at a pace.
func (w *watched) changes(ctx context.Context, p *paced, changes int, got *arrivals) error {
	var events sample
	for i := range warmUp + changes {
		if p.pause > 0 {
			if err := process.Sleep(ctx, p.pause+rand.N(p.pause)); err != nil {
				return err
			}
		}
		times, answer, err := w.one(ctx, got)
		if err != nil {
			return err
		}
		if i < warmUp {
			continue
		}
		events = append(events, times...)
		p.all = append(p.all, slices.Max(times))
		p.answer = append(p.answer, answer)
	}
	p.rounds, p.event = append(p.rounds, events), append(p.event, events...)
	return nil
}

// one makes a change and returns how long it took to each watcher, and to its answer.
func (w *watched) one(ctx context.Context, got *arrivals) (times sample, answer time.Duration, err error) {
	w.seq++
	got.expect(w.seq)
	began := time.Now()
	if err := w.change(ctx, w.seq); err != nil {
		return nil, 0, fmt.Errorf("change %d: %w", w.seq, err)
	}
	answer = time.Since(began)
	if err := got.wait(ctx); err != nil {
		return nil, 0, fmt.Errorf("change %d: %w", w.seq, err)
	}
	for _, at := range got.at {
		times = append(times, at.Sub(began))
	}
	return times, answer, nil
}

// weight is the memory of this process and of the servers, in bytes.
func (w *watched) weight() (client, server uint64, err error) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	server, err = w.resident()
	return m.HeapAlloc + m.StackInuse, server, err
}

func over(after, before uint64, n int) uint64 {
	if after < before {
		return 0
	}
	return (after - before) / uint64(n)
}

// arrivals notes when the same thing has come to each of n watchers.
type arrivals struct {
	mu   sync.Mutex // guards what follows
	want uint64
	at   []time.Time
	left int
	done chan struct{} // closed when none is left
	err  error         // of a watcher that has ended
	gone chan struct{} // closed when one has
}

// newArrivals waits for n watchers to be live.
func newArrivals(n int) *arrivals {
	return &arrivals{at: make([]time.Time, n), left: n, done: make(chan struct{}), gone: make(chan struct{})}
}

// expect begins to wait for a change.
func (a *arrivals) expect(seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.want, a.left, a.done = seq, len(a.at), make(chan struct{})
	clear(a.at)
}

func (a *arrivals) live(i int) func() { return func() { a.seen(i, 0, time.Now()) } }

func (a *arrivals) seen(i int, seq uint64, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if seq != a.want || !a.at[i].IsZero() {
		return
	}
	a.at[i] = at
	if a.left--; a.left == 0 {
		close(a.done)
	}
}

func (a *arrivals) ended(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = errors.Join(errors.New("a watcher has ended"), err)
		close(a.gone)
	}
}

// wait returns when what is expected has come to all.
func (a *arrivals) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, arriveTime)
	defer cancel()
	a.mu.Lock()
	done := a.done
	a.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-a.gone:
		return a.err
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		return fmt.Errorf("%d of %d watchers have not got it after %v: %w", a.left, len(a.at), arriveTime, ctx.Err())
	}
}
