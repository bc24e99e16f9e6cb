package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/overlay"
)

var seed = flag.Uint64("stale.seed", 0, "seed of the sample; 0 takes one by chance")

const (
	// sampled is how many rounds the sample has: some 10 s.
	sampled = 4
	// hunted is how many rounds the bug of the test may take. It shows in the first or the second.
	hunted = 20
	// sampleTime bounds each test. Most of it is for a machine that is busy with other tests.
	sampleTime = 4 * time.Minute
)

var root = filepath.Join("..", "..", "..")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kept is a directory that stays if the test fails.
func kept(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "scope-registry-stale-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs and data: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// asked are the options of a test.
func asked(t *testing.T, args ...string) options {
	t.Helper()
	o, err := parse(append([]string{"-root", root}, args...))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestSample stops the leader a few times.
func TestSample(t *testing.T) {
	t.Parallel() // it waits most of the time
	ctx, cancel := context.WithTimeout(t.Context(), sampleTime)
	defer cancel()
	o := asked(t)
	if *seed != 0 {
		o.seed = *seed
	}
	t.Logf("repeat with -stale.seed=%d", o.seed)
	began := time.Now()
	sum, err := attempt(ctx, o, kept(t), sampled, 0)
	var said bytes.Buffer
	sum.print(&said, o, time.Since(began))
	t.Logf("\n%s", said.String())
	if err := errors.Join(err, sum.verdict(o)); err != nil {
		t.Error(err)
	}
}

// TestUnconfirmedReadsAreFound: the attempt fails for servers that do not confirm
// reads. Those that confirm by VerifyLeader take longer, see -broken.
func TestUnconfirmedReadsAreFound(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), sampleTime)
	defer cancel()
	o := asked(t, "-seed=1")
	sum, err := attempt(ctx, o, kept(t), hunted, 1, bugs[0].edits...)
	if err != nil {
		t.Fatal(err)
	}
	if err := sum.verdict(o); err == nil || sum.stale == 0 {
		t.Errorf("%d rounds found no stale read: %v", sum.rounds, err)
	}
	t.Logf("found in round %d: %s", sum.rounds, sum.first)
}

// TestBugsCanBePlanted: each edit still finds its place.
func TestBugsCanBePlanted(t *testing.T) {
	for _, b := range bugs {
		if _, err := overlay.Write(root, t.TempDir(), b.edits); err != nil || len(b.edits) == 0 {
			t.Errorf("bug %q: %v", b.name, err)
		}
	}
}

// TestJudge: an answer with the newest address is fresh, an older one is stale, and
// an error is neither.
func TestJudge(t *testing.T) {
	var r round
	r.judge([]answer{{addr: "change-7:1"}, {addr: "change-8:1"}, {addr: "change-9:1"}, {addr: ""}, {err: &api.Error{Code: api.NoLeader}}}, 8, "s1")
	if r.stale != 2 || r.fresh != 2 || r.failed != 1 || r.codes[api.NoLeader] != 1 {
		t.Errorf("%+v", r)
	}
	var sum summary
	sum.add(r)
	sum.add(round{void: "nobody led"})
	if err := sum.verdict(options{}); err == nil || !strings.Contains(err.Error(), "2 of 5 reads were stale") || sum.rounds != 1 || sum.void != 1 {
		t.Errorf("%+v: %v", sum, err)
	}
	for name, s := range map[string]summary{"no round": {}, "no answer": {rounds: 3, failed: 9}} {
		if s.verdict(options{}) == nil {
			t.Errorf("%s is no error", name)
		}
	}
	good := summary{rounds: 1, fresh: 1, failed: 7}
	if err := good.verdict(options{}); err != nil {
		t.Error(err)
	}
}

func TestFlags(t *testing.T) {
	for _, bad := range []string{"-rounds=0", "-rounds=10001", "-delay=-1s", "-delay=201ms", "twice", "-nothing"} {
		if code := start(&bytes.Buffer{}, []string{bad}); code != exitUsage {
			t.Errorf("%s ends with %d", bad, code)
		}
	}
	if o, err := parse(nil); err != nil || o.seed == 0 || o.rounds != 300 || o.delay != 80*time.Millisecond {
		t.Errorf("%+v, %v", o, err)
	}
	var said bytes.Buffer
	if code := start(&said, []string{"-root", t.TempDir()}); code != exitFailed || !strings.Contains(said.String(), "rounds with seed") {
		t.Errorf("a root without sources ends with %d: %s", code, said.String())
	}
}
