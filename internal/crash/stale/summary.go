package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/overlay"
)

// maxVoid is how many rounds may say nothing, beside as many as those that do.
const maxVoid = 20

// summary is what came of all rounds.
type summary struct {
	rounds, void, held   int
	stale, fresh, failed int // reads
	staleRounds          int
	codes                map[api.Code]int
	stood                []time.Duration
	first                string // stale read
}

func (s *summary) add(r round) {
	if r.void != "" {
		s.void++
		return
	}
	s.rounds++
	if r.held {
		s.held++
	}
	s.stale, s.fresh, s.failed = s.stale+r.stale, s.fresh+r.fresh, s.failed+r.failed
	if r.stale > 0 {
		s.staleRounds++
	}
	if s.codes == nil {
		s.codes = map[api.Code]int{}
	}
	for code, n := range r.codes {
		s.codes[code] += n
	}
	if s.stood = append(s.stood, r.stood); s.first == "" {
		s.first = r.first
	}
}

// verdict is an error if a read was stale, or the rounds say nothing.
func (s *summary) verdict(o options) error {
	switch {
	case s.stale > 0:
		return fmt.Errorf("seed %d: %d of %d reads were stale, the first: %s", o.seed, s.stale, s.stale+s.fresh+s.failed, s.first)
	case s.rounds == 0 || s.fresh == 0:
		return fmt.Errorf("seed %d: %d reads were answered in %d rounds: the run says nothing", o.seed, s.fresh, s.rounds)
	}
	return nil
}

// print prints the rows of a table.
func (s *summary) print(out io.Writer, o options, took time.Duration) {
	slices.Sort(s.stood)
	row := func(what, format string, args ...any) {
		fmt.Fprintf(out, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(out, "\n| seed %d, %v each way, %.0f s | |\n|---|---|\n", o.seed, o.delay, took.Seconds())
	row("rounds, those in which an old answer was kept back until the leader went on", "%d, %d", s.rounds, s.held)
	if n := len(s.stood); n > 0 {
		row("the leader was stopped for: median, longest", "%.2f s, %.2f s", s.stood[n/2].Seconds(), s.stood[n-1].Seconds())
	}
	row("reads sent to it meanwhile", "%d", s.stale+s.fresh+s.failed)
	row("answered with the newest state", "%d", s.fresh)
	errs := fmt.Sprint(s.failed)
	for _, code := range slices.Sorted(maps.Keys(s.codes)) {
		errs += fmt.Sprintf(", %d %s", s.codes[code], code)
	}
	row("answered with an error", "%s", errs)
	row("stale, in rounds", "%d, %d", s.stale, s.staleRounds)
	row("rounds that said nothing, since the leader had changed", "%d", s.void)
}

// bug is a confirmation of reads that confirms too little.
type bug struct {
	name  string
	edits []overlay.Edit
}

// bugs are what the attempt must find.
var bugs = []bug{
	{"reads are not confirmed", []overlay.Edit{
		{File: "internal/registry/confirm.go", From: "if err := c.barrier(enqueueTimeout).Error(); err != nil {", To: "if err := error(nil); err != nil {"}}},
	{"reads are confirmed by VerifyLeader", []overlay.Edit{
		{File: "internal/registry/open.go", From: "newConfirmer(r.raft.Barrier, ", To: "newConfirmer(func(time.Duration) raft.Future { return r.raft.VerifyLeader() }, "}}},
}

// breakAll plants one bug after the other and sees that each is found.
func breakAll(ctx context.Context, out io.Writer, o options) error {
	dir, err := os.MkdirTemp("", "scope-registry-stale-*")
	if err != nil {
		return err
	}
	var missed []error
	for i, b := range bugs {
		if ctx.Err() != nil {
			break
		}
		its := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(its, 0o700); err != nil {
			return err
		}
		sum, err := attempt(ctx, o, its, o.rounds, 1, b.edits...)
		if err == nil && sum.stale == 0 {
			err = fmt.Errorf("%d rounds with seed %d found no stale read", sum.rounds, o.seed)
		}
		if err != nil {
			fmt.Fprintf(out, "%-36s NOT FOUND: %v\n", b.name, err)
			missed = append(missed, fmt.Errorf("bug %q: %w", b.name, err))
			continue
		}
		fmt.Fprintf(out, "%-36s found in round %d: %s\n", b.name, sum.rounds, sum.first)
	}
	if len(missed) > 0 || o.keep {
		fmt.Fprintf(out, "logs and data: %s\n", dir)
	} else {
		missed = append(missed, os.RemoveAll(dir))
	}
	return errors.Join(append(missed, ctx.Err())...)
}
