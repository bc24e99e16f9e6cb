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

	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/overlay"
	"github.com/scope-registry/scope-registry/internal/process"
)

// bug is a fault planted into the server by an overlay.
type bug struct {
	name  string
	edits []overlay.Edit
	rules []string // by one of which it must be found
}

// bugs are what a run must find.
var bugs = []bug{
	{"acknowledged before it is committed", []overlay.Edit{
		{File: "internal/registry/open.go", From: "newCommitter(r.raft.Apply)", To: "newCommitter((&early{Registry: r}).apply)"},
		{File: "internal/registry/open.go", From: "// Fatal delivers the first error", To: `// early answers with what the entry will do, if it is committed.
type early struct {
	*Registry
	ahead fsm.State
}

type answered struct {
	raft.ApplyFuture
	results []*fsm.Result
}

func (a answered) Error() error  { return nil }
func (a answered) Response() any { return a.results }

func (e *early) apply(data []byte, timeout time.Duration) raft.ApplyFuture {
	if now := e.fsm.State(); e.ahead.Index() < now.Index() {
		e.ahead = now
	}
	future := e.raft.Apply(data, timeout)
	next, results, _, err := e.ahead.ApplyEntry(e.ahead.LogIndex()+1, e.raft.CurrentTerm(), data)
	if err != nil || e.office.Load() == nil {
		return future
	}
	e.ahead = next
	return answered{future, results}
}

// Fatal delivers the first error`},
		{File: "internal/registry/propose.go", From: "\terr = r.waitIndex(ctx, result.GetIndex())\n", To: "\tif l, ok := r.leaderNow(); ok && l.self {\n\t\tresult = proto.CloneOf(result) // what the state remembers stays as it is\n\t\tresult.Index = r.fsm.State().Index()\n\t} else {\n\t\terr = r.waitIndex(ctx, result.GetIndex())\n\t}\n"},
	}, []string{writes.RuleLost, writes.RuleBack, writes.RuleEpoch, ruleStale}},
	{"acknowledged before it is on disk", []overlay.Edit{
		{File: "internal/registry/store.go", From: "\tbegan, err := s.log.append(sealed)\n",
			To: "\tif logs[0].Index > 20 { // the cluster is founded\n\t\ts.last = last\n\t\tbehind <- func() {\n\t\t\t_, _ = s.log.append(sealed)\n\t\t\t_ = s.mark.set(last, false)\n\t\t}\n\t\treturn nil\n\t}\n\tbegan, err := s.log.append(sealed)\n"},
		{File: "internal/registry/store.go", From: "// settle makes a store", To: `// behind writes what it gets when it gets to it.
var behind = func() chan func() {
	c := make(chan func(), 1024)
	go func() {
		for write := range c {
			time.Sleep(20 * time.Millisecond)
			write()
		}
	}()
	return c
}()

// settle makes a store`},
	}, []string{writes.RuleLost, writes.RuleBack, writes.RuleEpoch, ruleStale, ruleStates, ruleBackwards, ruleClean}}, // or a server misses its entries itself, and ends
	{"ready before it has caught up", []overlay.Edit{
		{File: "internal/registry/read.go", From: "if _, err := r.Confirm(r.ctx); err == nil {", To: "if r.ctx.Err() == nil {"},
	}, []string{ruleBackwards}},
	{"votes are not kept", []overlay.Edit{
		{File: "internal/registry/store.go", From: "\treturn s.check(fmt.Sprintf(\"writing stable key %q\", key), s.inner.Set(key, sealValue(key, val)))\n",
			To: "\tif string(key) == \"CurrentTerm\" {\n\t\treturn nil\n\t}\n\treturn s.check(fmt.Sprintf(\"writing stable key %q\", key), s.inner.Set(key, sealValue(key, val)))\n"},
	}, []string{writes.RuleLost, writes.RuleBack, writes.RuleEpoch, ruleStale, ruleStates, ruleClean, ruleReady, ruleStands}},
	{"a snapshot counts before it is sealed", []overlay.Edit{
		{File: "internal/registry/snapshots.go", From: "\t\terr = writeDurably(path, sumsName, sums(meta, w.sum.Sum(nil)))\n", To: "\t\terr = writeDurably(path, sumsName, sums(meta, sha256.New().Sum(nil)))\n"},
	}, []string{ruleClean}},
}

// breakAll plants one bug after the other and sees that each is found.
func breakAll(ctx context.Context, out io.Writer, o options) error {
	dir, err := os.MkdirTemp("", "scope-registry-kills-*")
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
		began := time.Now()
		found, kills, err := b.hunt(ctx, o, its)
		if err != nil {
			fmt.Fprintf(out, "%-42s NOT FOUND: %v\n", b.name, err)
			missed = append(missed, fmt.Errorf("bug %q: %w", b.name, err))
			continue
		}
		fmt.Fprintf(out, "%-42s found after %d kills and %.0f s, by %s\n", b.name, kills, time.Since(began).Seconds(), found)
	}
	if len(missed) > 0 || o.keep {
		fmt.Fprintf(out, "logs and data: %s\n", dir)
	} else {
		missed = append(missed, os.RemoveAll(dir))
	}
	return errors.Join(append(missed, ctx.Err())...)
}

const (
	// hunts is how many kills a bug has to show.
	hunts = 400
	// huntEvery is how often a hunt looks.
	huntEvery = 10
)

// hunt runs servers with the bug until it is found. It returns what was found, and
// after how many kills.
func (b bug) hunt(ctx context.Context, o options, dir string) (writes.Finding, int, error) {
	bin, err := process.Build(ctx, o.root, dir, "./cmd/scope-registry", append(slices.Clone(small), b.edits...)...)
	if err != nil {
		return writes.Finding{}, 0, err
	}
	o.kills, o.every = hunts, huntEvery
	r, err := run(ctx, o, bin, filepath.Join(dir, "servers"))
	for _, w := range r.wrong {
		if slices.Contains(b.rules, w.Rule) {
			w.What, _, _ = strings.Cut(w.What, "\n")
			return w, r.tally.kills, nil
		}
	}
	return writes.Finding{}, r.tally.kills, errors.Join(fmt.Errorf("%d kills with seed %d found %v, and %v was to be found", r.tally.kills, o.seed, r.wrong, b.rules), err)
}
