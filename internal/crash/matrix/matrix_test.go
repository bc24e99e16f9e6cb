package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/internal/crash/rig"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/load"
	"github.com/scope-registry/scope-registry/internal/overlay"
)

var seed = flag.Uint64("matrix.seed", 0, "seed of the sample; 0 takes one by chance")

const (
	// sampled is how many runs the sample has, with those that stop a writer and cut one off: it takes some 15 s on two
	// processors.
	sampled = 6
	// sampleTime bounds the sample. Most of it is for a machine that is busy with other tests.
	sampleTime = 4 * time.Minute
)

var root = filepath.Join("..", "..", "..")

// programs builds what all tests run, once, into a directory that TestMain removes.
var programs = sync.OnceValues(func() (load.Programs, error) { return load.Build(context.Background(), root, bin) })

var bin string

func TestMain(m *testing.M) {
	code := 1
	var err error
	if bin, err = os.MkdirTemp("", "scope-registry-bin-*"); err == nil {
		code = m.Run()
		err = errors.Join(goleak.Find(), os.RemoveAll(bin))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// built are the programs as they are.
func built(t *testing.T) load.Programs {
	t.Helper()
	p, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// kept is a directory that stays if the test fails.
func kept(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "scope-registry-crash-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs, data and what clients were told: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestSample is a sample of the matrix: a writer that is stopped, one that is cut
// off, and some runs drawn by the seed.
func TestSample(t *testing.T) {
	t.Parallel() // it waits most of the time
	ctx, cancel := context.WithTimeout(t.Context(), sampleTime)
	defer cancel()
	o := options{runs: 1, rigs: 2, bulk: 2, seed: *seed}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1 << 32)
	}
	t.Logf("repeat with -matrix.seed=%d", o.seed)
	jobs := plan(o)
	slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(b.other, a.other) })
	jobs = jobs[:sampled]
	var said bytes.Buffer
	s := newSession(&said, o, kept(t), built(t))
	s.work(ctx, jobs)
	if err := errors.Join(s.report(time.Since(s.began)), ctx.Err()); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", said.String())
	if len(s.frozen) == 0 || len(s.isolated) == 0 || s.counts.Acknowledged == 0 || s.counts.Refused == 0 || s.counts.Unknown == 0 {
		t.Errorf("a writer was stopped %d times, and cut off %d times; writes: %+v", len(s.frozen), len(s.isolated), s.counts)
	}
}

// TestBrokenStoreIsFound: a store whose guard does not check again before it
// acknowledges fails the run. The others of -broken take longer.
func TestBrokenStoreIsFound(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), sampleTime)
	defer cancel()
	b := bugs[0]
	store, err := built(t).WithStore(ctx, root, t.TempDir(), b.edits...)
	if err != nil {
		t.Fatal(err)
	}
	found, runs, err := b.hunt(ctx, options{runs: 5, bulk: 0, seed: 1}, kept(t), store)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("found in run %d: %s", runs, found)
}

// TestBugsCanBePlanted: each edit still finds its place.
func TestBugsCanBePlanted(t *testing.T) {
	names := map[string]bool{}
	for _, b := range bugs {
		if _, err := overlay.Write(root, t.TempDir(), b.edits); err != nil || names[b.name] || len(b.edits) == 0 || len(b.rules) == 0 {
			t.Errorf("bug %q: %v", b.name, err)
		}
		names[b.name] = true
		if len(plan(options{runs: 1, only: b.only})) == 0 {
			t.Errorf("bug %q: no case is named %q", b.name, b.only)
		}
	}
}

func TestPlan(t *testing.T) {
	counts, scopes := map[string]int{}, map[string]int{}
	all := plan(options{runs: 5, seed: 1})
	for _, j := range all {
		counts[j.name()]++
		scopes[j.Scope]++
	}
	for _, step := range rig.Steps() {
		for _, victim := range rig.Victims() {
			if n := counts[fmt.Sprintf("%s/%s", step, victim)]; n != 5 {
				t.Errorf("%s/%s is met %d times", step, victim, n)
			}
		}
	}
	if counts[stopName] != 5 || counts[cutName] != 5 || counts["shipped/source (no pre-copy)"] != 5 || scopes[rig.Plain] == 0 || scopes[rig.Heir] == 0 {
		t.Errorf("%v, %v", counts, scopes)
	}
	same, other := plan(options{runs: 5, seed: 1}), plan(options{runs: 5, seed: 2})
	if !slices.Equal(all, same) || slices.Equal(all, other) {
		t.Error("the order is not that of the seed")
	}
	if got := plan(options{runs: 3, only: "done/cli"}); len(got) != 3 || got[0].Step != rig.Flipped || got[0].Victim != rig.Command {
		t.Errorf("done/cli alone: %v", got)
	}
}

func TestFlags(t *testing.T) {
	for _, bad := range []string{"-runs=0", "-runs=101", "-rigs=0", "-rigs=9", "-bulk=-1", "-bulk=65", "shipped", "-nothing"} {
		if code := start(&bytes.Buffer{}, []string{bad}); code != exitUsage {
			t.Errorf("%s ends with %d", bad, code)
		}
	}
	if o, err := parse(nil); err != nil || o.seed == 0 || o.runs != 5 {
		t.Errorf("%+v, %v", o, err)
	}
	if code := start(&bytes.Buffer{}, []string{"-only", "nobody/nothing"}); code != exitFailed {
		t.Errorf("no case at all ends with %d", code)
	}
}

// TestReport: the table tells what came about, and anything wrong fails the run.
func TestReport(t *testing.T) {
	result := func(phase, cause, death string, took time.Duration) rig.Result {
		r := rig.Result{AtDeath: death, Took: took, Silence: 2 * took}
		r.Move.Phase, r.Move.Cause = phase, cause
		return r
	}
	fresh := func(said *bytes.Buffer) *session {
		s := newSession(said, options{seed: 7}, "", load.Programs{})
		s.results["done/cli"] = []rig.Result{result("done", "", "done", time.Second)}
		s.results["start/source"] = []rig.Result{result("aborted", "session", "copying", 3*time.Second), result("done", "", "quiescing", time.Second),
			result("done", "", "copying", 2*time.Second)}
		s.frozen = []rig.Frozen{{InFlight: 3, Unknown: 2, Refused: 1, Stood: time.Second}}
		s.isolated = []rig.Isolated{{Acked: 5, Refused: 6, Last: time.Second, First: 3 * time.Second}, {Last: 2 * time.Second, First: 3 * time.Second}}
		return s
	}
	var said bytes.Buffer
	if err := fresh(&said).report(time.Minute); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"| start/source | 3 | 2 | 1 session | 2 copying, 1 quiescing | 3.00 s | 4.00 s, 6.00 s |\n| done/cli |", "3 writes", "5 more writes, for 2.00 s", "passed 1.00 s", "7 runs", "nothing lost"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in\n%s", want, said.String())
		}
	}
	for name, change := range map[string]func(*session){
		"findings": func(s *session) {
			s.fail(t.Context(), failure{name: "x", wrong: []writes.Finding{{Rule: writes.RuleLost, What: "gone"}}})
		},
		"an error":         func(s *session) { s.fail(t.Context(), failure{name: "x", err: errors.New("gone")}) },
		"a run that lacks": func(s *session) { s.jobs = []job{{other: stopName}} },
		"a strange answer": func(s *session) { s.counts.Strange, s.strange = 1, []string{"gone"} },
	} {
		var said bytes.Buffer
		s := fresh(&said)
		change(s)
		if err := s.report(time.Minute); err == nil || strings.Contains(said.String(), "nothing lost") {
			t.Errorf("%s: %v\n%s", name, err, said.String())
		}
	}
}
