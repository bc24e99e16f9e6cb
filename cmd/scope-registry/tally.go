package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/migration"
)

// followed is what a tally needs of a server's core.
type followed interface {
	Ready() error
	Watch(from uint64) (*fsm.Watcher, error)
}

// tally counts what happens in the log, as this server applies it: all servers
// count the same. It begins when the server has caught up: what a start reads
// from its own log has happened before, and was counted then. It is a
// prometheus.Collector.
type tally struct {
	reg      followed
	counting chan struct{} // closed once it counts
	parts    []prometheus.Collector

	opens, expiries, takeovers, gaps prometheus.Counter
	ended                            *prometheus.CounterVec
	quiesced                         prometheus.Histogram
}

// The outcomes of a move.
const (
	outcomeDone    = "done"
	outcomeAborted = "aborted"
	outcomeForced  = "forced" // no move: the scope was taken from its owner
)

func newTally(reg followed) *tally {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "scope_registry_" + name, Help: help})
	}
	t := &tally{reg: reg, counting: make(chan struct{}),
		opens:     counter("session_opens_total", "Sessions that nodes have opened."),
		expiries:  counter("session_expiries_total", "Sessions that ended because nobody renewed them."),
		takeovers: counter("takeovers_total", "Scopes that their fallback has taken over from an owner whose session had expired."),
		gaps:      counter("event_gaps_total", "Times this server could not count what happened, as it fell behind or was given a snapshot."),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scope_registry_moves_ended_total",
			Help: "Moves that have ended, by outcome (done, aborted, forced) and, of aborted ones, cause."}, []string{"outcome", "cause"}),
		quiesced: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "scope_registry_move_quiesced_seconds",
			Help:    "How long scopes took no writes in moves that have ended.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 600, 3600}})}
	t.ended.WithLabelValues(outcomeDone, "")
	t.ended.WithLabelValues(outcomeForced, "")
	for _, cause := range []string{fsm.CauseOperator, fsm.CauseSource, fsm.CauseTarget, fsm.CauseSession, fsm.CauseWindow,
		fsm.CauseTimeout, fsm.CauseForced, fsm.CauseMismatch} {
		t.ended.WithLabelValues(outcomeAborted, cause)
	}
	t.parts = []prometheus.Collector{t.opens, t.expiries, t.takeovers, t.gaps, t.ended, t.quiesced}
	return t
}

// Describe implements prometheus.Collector.
func (t *tally) Describe(ch chan<- *prometheus.Desc) {
	for _, p := range t.parts {
		p.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (t *tally) Collect(ch chan<- prometheus.Metric) {
	for _, p := range t.parts {
		p.Collect(ch)
	}
}

// run counts until ctx ends.
func (t *tally) run(ctx context.Context) {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for begun := false; ctx.Err() == nil; {
		if w, err := t.follow(); err == nil {
			if begun {
				t.gaps.Inc()
			} else {
				close(t.counting)
			}
			begun = true
			t.count(ctx, w)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// follow is a watcher of what comes after the state of now.
func (t *tally) follow() (*fsm.Watcher, error) {
	if err := t.reg.Ready(); err != nil {
		return nil, err
	}
	return t.reg.Watch(0)
}

// count counts until the watcher ends: with ctx, or as this server was given a
// snapshot, or as it fell behind. What it has missed then is not told again.
func (t *tally) count(ctx context.Context, w *fsm.Watcher) {
	for {
		item, err := w.Next(ctx)
		if err != nil {
			return
		}
		for _, e := range item.Events {
			t.event(e)
		}
	}
}

func (t *tally) event(e fsm.Event) {
	switch {
	case e.Node != nil && e.Cause == "open":
		t.opens.Inc()
	case e.Node != nil && e.Cause == "expire":
		t.expiries.Inc()
	case e.Scope != nil && e.Cause == "takeover":
		t.takeovers.Inc()
	case e.Move != nil && !e.Move.Running():
		t.end(*e.Move)
	}
}

func (t *tally) end(m migration.Move) {
	switch {
	case m.Mode == migration.Forced:
		t.ended.WithLabelValues(outcomeForced, "").Inc()
		return
	case m.Phase == migration.Done:
		t.ended.WithLabelValues(outcomeDone, "").Inc()
	default:
		t.ended.WithLabelValues(outcomeAborted, m.Cause).Inc()
	}
	if _, closed := m.Entered(migration.Quiescing); closed {
		t.quiesced.Observe(float64(m.QuiescedMS(0)) / 1000)
	}
}
