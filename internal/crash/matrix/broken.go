package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/rig"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/load"
	"github.com/scope-registry/scope-registry/internal/overlay"
)

// bug is a fault planted into the store or the client by an overlay.
type bug struct {
	name  string
	edits []overlay.Edit
	only  string   // the cases that must find it
	rules []string // by one of these
}

// bugs are what the matrix must find.
var bugs = []bug{
	{"no check before the acknowledgement", []overlay.Edit{{File: "client/guard.go", From: "\treturn g.adm.Check(&t, key, g.clock)\n", To: "\treturn nil\n"}},
		stopName, []string{rig.RuleStopped, writes.RuleOverlap}},
	{"the lease has no end", []overlay.Edit{{File: "internal/agent/agent.go", From: "until: t.lease.valid(t.view.index)}", To: "until: t.lease.valid(t.view.index) | 1<<62}"}},
		cutName, []string{rig.RuleStopped, writes.RuleOverlap}},
	{"a slice is merged instead of replacing", []overlay.Edit{{File: "examples/store/slices.go", From: "\t\t\tchanges = append(changes, entry{key: bytes.Clone(have.key)})\n", To: ""}},
		stopName, []string{writes.RuleBack}},
	{"acknowledged before it is on disk", []overlay.Edit{{File: "examples/store/disk.go", From: "\t<-c.done\n\treturn c.err\n", To: "\treturn nil\n"},
		{File: "examples/store/disk.go", From: "\tif first {\n\t\td.commit(c)\n\t}\n", To: "\tif first {\n\t\tgo d.commit(c)\n\t}\n"}},
		"start/source", []string{writes.RuleLost}},
	{"writes under way are not waited for", []overlay.Edit{{File: "client/effects.go", From: "if f.Move == \"\" && s.adm.Idle() || f.Move != \"\" && s.adm.Drained(f.Prefix) {", To: "if f.Move != \"\" || s.adm.Idle() {"}},
		"cli", []string{writes.RuleLost}},
}

// breakAll plants one bug after the other and sees that each is found.
func breakAll(ctx context.Context, out io.Writer, o options) error {
	dir, err := os.MkdirTemp("", "scope-registry-broken-*")
	if err != nil {
		return err
	}
	good, err := load.Build(ctx, o.root, dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	var missed []error
	for i, b := range bugs {
		if !strings.Contains(b.name, o.only) {
			continue
		}
		its := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(its, 0o700); err != nil {
			return err
		}
		programs, err := good.WithStore(ctx, o.root, its, b.edits...)
		if err != nil {
			return fmt.Errorf("bug %q: %w", b.name, err)
		}
		began := time.Now()
		found, runs, err := b.hunt(ctx, o, its, programs)
		if err != nil {
			fmt.Fprintf(out, "%-42s NOT FOUND: %v\n", b.name, err)
			missed = append(missed, fmt.Errorf("bug %q: %w", b.name, err))
			continue
		}
		fmt.Fprintf(out, "%-42s found in run %d of %s, after %.0f s, by %s\n", b.name, runs, b.only, time.Since(began).Seconds(), found)
	}
	if len(missed) > 0 || o.keep {
		fmt.Fprintf(out, "logs, data and what clients were told: %s\n", filepath.Join(dir, "*"))
	} else {
		missed = append(missed, os.RemoveAll(dir))
	}
	return errors.Join(append(missed, ctx.Err())...)
}

// hunts is how often each case is run at least. One of the bugs shows in one of some ten moves.
const hunts = 20

// hunt runs the cases that must find the bug, until one does. It returns what was
// found, and in which run.
func (b bug) hunt(ctx context.Context, o options, dir string, programs load.Programs) (writes.Finding, int, error) {
	o.only, o.rigs, o.runs = b.only, 1, max(o.runs, hunts)
	s := newSession(io.Discard, o, dir, programs)
	s.maxFailures, s.pause = 1, 0 // so that a write is under way at every moment
	s.work(ctx, plan(o))
	runs := 1 + len(s.frozen) + len(s.isolated)
	for _, of := range s.results {
		runs += len(of)
	}
	if len(s.failures) == 0 {
		return writes.Finding{}, runs, errors.Join(fmt.Errorf("%d runs of %s found nothing", runs-1, b.only), ctx.Err())
	}
	f := s.failures[0]
	for _, w := range f.wrong {
		if slices.Contains(b.rules, w.Rule) {
			return w, runs, nil
		}
	}
	return writes.Finding{}, runs, fmt.Errorf("%s failed by something else: %w", f.name, f.first())
}
