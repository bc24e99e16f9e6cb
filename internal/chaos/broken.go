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

	"github.com/scope-registry/scope-registry/internal/chaos/check"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/overlay"
)

// bug is planted into the servers, or into the stores, by an overlay: a chaos run that does not see it would not see one
// that is there.
type bug struct {
	name            string
	registry, store []overlay.Edit
	scenario        string   // in which it must show
	found           []string // the checkers, one of which must see it
}

// bugs are what chaos runs must find.
var bugs = []bug{
	{name: "writes under way are not waited for", scenario: history.Transfer, found: []string{"set", "overlap"}, store: []overlay.Edit{
		{File: "client/effects.go", From: "if f.Move == \"\" && s.adm.Idle() || f.Move != \"\" && s.adm.Drained(f.Prefix) {", To: "if f.Move != \"\" || s.adm.Idle() {"}}},
	{name: "the source resumes on its own timer", scenario: history.SlowAll, found: []string{"set", "overlap"}, store: []overlay.Edit{
		{File: "internal/agent/agent.go", From: "closed: t.view.Closed(s) || waits})", To: "closed: t.view.Closed(s) && !t.impatient(p) || waits})"},
		{File: "internal/agent/source.go", From: "\t\tx.draining = true\n", To: "\t\tx.draining, x.since = true, t.now\n"},
		{File: "internal/agent/source.go", From: "\tdraining bool\n", To: "\tdraining bool\n\tsince time.Duration\n"},
		{File: "internal/agent/agent.go", From: "// publish makes new rules when", To: "func (t *step) impatient(p scope.Prefix) bool {\n\tfor _, x := range t.sources {\n\t\tif x.Prefix == p && x.draining && t.now > x.since+100*time.Millisecond {\n\t\t\treturn true\n\t\t}\n\t}\n\treturn false\n}\n\n// publish makes new rules when"},
		{File: "internal/agent/agent.go", From: "\tt.checkSession()\n", To: "\tt.checkSession()\n\tfor _, x := range t.sources {\n\t\tif t.impatient(x.Prefix) {\n\t\t\tt.touched = append(t.touched, x.Prefix)\n\t\t}\n\t}\n"}}},
	{name: "a linearizable read is not confirmed", scenario: history.Partition, found: []string{"linearizable", "order"}, registry: []overlay.Edit{
		{File: "internal/registry/read.go", From: "\t\tif _, err := r.Confirm(ctx); err != nil {\n\t\t\treturn fsm.State{}, err\n\t\t}\n", To: ""}}},
	{name: "no memory of request ids", scenario: history.Transfer, found: []string{"linearizable", "epochs", "acknowledged"}, registry: []overlay.Edit{
		{File: "fsm/apply.go", From: "\t\tif earlier != nil {\n", To: "\t\tif earlier != nil && false {\n"}}},
	{name: "a write is acknowledged before it is on the disk", scenario: history.KillOwner, found: []string{"set"}, store: []overlay.Edit{
		{File: "examples/store/disk.go", From: "\t<-c.done\n\treturn c.err\n", To: "\treturn nil\n"},
		{File: "examples/store/disk.go", From: "\tif first {\n\t\td.commit(c)\n\t}\n", To: "\tif first {\n\t\tgo d.commit(c)\n\t}\n"}}},
	{name: "the lease has no end", scenario: history.CutOwner, found: []string{"overlap"}, store: []overlay.Edit{
		{File: "internal/agent/agent.go", From: "until: t.lease.valid(t.view.index)}", To: "until: t.lease.valid(t.view.index) | 1<<62}"}}},
	{name: "a slice is merged into an old copy", scenario: history.CutOwner, found: []string{"set"}, store: []overlay.Edit{
		{File: "examples/store/slices.go", From: "\t\t\tchanges = append(changes, entry{key: bytes.Clone(have.key)})\n", To: ""}}},
}

// brokenRuns is how often a bug is looked for before it counts as not found.
const brokenRuns = 3

// brokenHold is longer than a session lives without renewals: some bugs show only when a fallback has taken over.
const brokenHold = 3 * time.Second

// breakAll plants one bug after the other and sees that a run finds each.
func breakAll(ctx context.Context, o options, out io.Writer) error {
	dir, err := outDir(o.out)
	if err != nil {
		return err
	}
	var missed []error
	for i, b := range bugs {
		if !strings.Contains(b.name, o.only) {
			continue
		}
		began := time.Now()
		by, runs, err := b.hunt(ctx, o, filepath.Join(dir, fmt.Sprintf("bug-%d", i+1)))
		if err != nil {
			fmt.Fprintf(out, "%-50s NOT FOUND: %v\n", b.name, err)
			missed = append(missed, fmt.Errorf("bug %q: %w", b.name, err))
			continue
		}
		fmt.Fprintf(out, "%-50s found in run %d of %s, after %.0f s, by %s\n", b.name, runs, b.scenario, time.Since(began).Seconds(), by)
	}
	fmt.Fprintf(out, "histories, reports and logs: %s\n", dir)
	return errors.Join(append(missed, ctx.Err())...)
}

// hunt makes runs with the bug until one of its checkers sees it, and returns what was seen, and in which run.
func (b bug) hunt(ctx context.Context, o options, dir string) (string, int, error) {
	var last error
	for n := range brokenRuns {
		its := o
		its.local, its.scenario, its.seed, its.duration, its.hold = true, b.scenario, o.seed+uint64(n), minDuration, brokenHold
		its.out, its.planted = filepath.Join(dir, fmt.Sprintf("run-%d", n+1)), b
		log, err := outFile(its.out)
		if err != nil {
			return "", n, err
		}
		checks, err := run(ctx, its, log)
		if err := errors.Join(log.Close(), ctx.Err()); err != nil {
			return "", n, err
		}
		if by := b.seen(checks); by != "" {
			return by, n + 1, nil
		}
		if last = err; err == nil {
			last = errors.New("pass")
		}
	}
	return "", brokenRuns, fmt.Errorf("%d runs of %s ended with: %w", brokenRuns, b.scenario, last)
}

// seen is the first violation of one of the checkers that must find the bug.
func (b bug) seen(checks []check.Result) string {
	for _, c := range checks {
		if slices.Contains(b.found, c.Name) && c.Violated > 0 {
			return fmt.Sprintf("%s: %.120s", c.Name, c.Violations[0])
		}
	}
	return ""
}

func outFile(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return os.Create(filepath.Join(dir, "output.txt"))
}
