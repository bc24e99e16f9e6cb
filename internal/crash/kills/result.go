package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// result is what came of a run.
type result struct {
	o      options
	took   time.Duration
	counts counts
	tally  tally
	wrong  []writes.Finding
	status api.Cluster // of the last check
	checks int
}

// verdict is an error if a rule was broken, or the run says nothing.
func (r result) verdict() error {
	switch {
	case len(r.wrong) > 0:
		return fmt.Errorf("seed %d, after %d kills: %d findings, the first: %s", r.o.seed, r.tally.kills, len(r.wrong), r.wrong[0])
	case r.counts.acknowledged < r.tally.kills:
		return fmt.Errorf("only %d mutations were acknowledged over %d kills: the run says nothing", r.counts.acknowledged, r.tally.kills)
	case r.checks == 0 || len(r.tally.ready) == 0:
		return fmt.Errorf("%d checks and %d starts until ready: the run says nothing", r.checks, len(r.tally.ready))
	}
	return nil
}

// print prints the rows of a table.
func (r result) print(out io.Writer) {
	t, c := r.tally, r.counts
	slices.Sort(t.ready)
	lost := 0
	for _, w := range r.wrong {
		if w.Rule == writes.RuleLost {
			lost++
		}
		fmt.Fprintln(out, w)
	}
	row := func(what, format string, args ...any) {
		fmt.Fprintf(out, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(out, "\n| seed %d, %.0f s | |\n|---|---|\n", r.o.seed, r.took.Seconds())
	row("kills", "%d", t.kills)
	row("of one server, of two, of all three at once", "%d, %d, %d times", t.strikes[1], t.strikes[2], t.strikes[3])
	row("kills of a server that was not ready since its start", "%d", t.starting)
	row("kills that left a half-written snapshot", "%d", t.snapshotted)
	row("starts", "%d", t.restarts)
	if n := len(t.ready); n > 0 {
		row("starts that nobody ended, until ready: median, longest", "%d: %.2f s, %.2f s", n, t.ready[n/2].Seconds(), t.ready[n-1].Seconds())
	}
	row("snapshots that a server got from another one", "%d", t.installed)
	row("mutations acknowledged", "%d", c.acknowledged)
	row("with unknown outcome to the end", "%d", c.unknown)
	row("requests that were to be sent again, those of them whose fate was open", "%d, %d of %d", c.triedAgain, c.doubts, c.tries)
	row("linearizable reads, those that got no answer", "%d, %d", c.reads, c.readsFailed)
	row("looks at every server for all that was acknowledged", "%d", r.checks)
	row("lost", "%d", lost)
	if len(r.status.Members) > 0 {
		m := r.status.Members[0]
		row("state of all three at the end: index, scopes, SHA-256", "%d, %d, %.16s…", m.Index, r.status.Scopes, m.StateHash)
	}
}
