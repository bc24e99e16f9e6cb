package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/overlay"
	"github.com/scope-registry/scope-registry/internal/process"
)

var seed = flag.Uint64("kills.seed", 0, "seed of the sample; 0 takes one by chance")

const (
	// sampled is how many kills the sample has: some 10 s on two processors.
	sampled = 20
	// sampleTime bounds the sample. Most of it is for a machine that is busy with other tests.
	sampleTime = 4 * time.Minute
)

var root = filepath.Join("..", "..", "..")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kept is a directory that stays if the test fails.
func kept(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "scope-registry-kills-*")
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

// TestSample kills servers a few times.
func TestSample(t *testing.T) {
	t.Parallel() // it waits most of the time
	ctx, cancel := context.WithTimeout(t.Context(), sampleTime)
	defer cancel()
	o := options{kills: sampled, every: sampled / 2, seed: *seed, root: root}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1 << 32)
	}
	t.Logf("repeat with -kills.seed=%d", o.seed)
	dir := kept(t)
	bin, err := process.Build(ctx, root, dir, "./cmd/scope-registry", small...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := run(ctx, o, bin, filepath.Join(dir, "servers"))
	var said bytes.Buffer
	r.print(&said)
	t.Logf("\n%s", said.String())
	if err := errors.Join(err, r.verdict()); err != nil {
		t.Error(err)
	}
	if r.tally.kills != sampled || r.tally.restarts != sampled {
		t.Errorf("%d kills and %d starts, want %d", r.tally.kills, r.tally.restarts, sampled)
	}
}

// TestBrokenServerIsFound: servers that acknowledge before a majority has the entry
// fail the run. The others of -broken take longer.
func TestBrokenServerIsFound(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), sampleTime)
	defer cancel()
	found, kills, err := bugs[0].hunt(ctx, options{root: root, seed: 1}, kept(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("found after %d kills: %s", kills, found)
}

// TestBugsCanBePlanted: each edit still finds its place.
func TestBugsCanBePlanted(t *testing.T) {
	names := map[string]bool{}
	for _, b := range bugs {
		if _, err := overlay.Write(root, t.TempDir(), append(small[:len(small):len(small)], b.edits...)); err != nil || names[b.name] || len(b.edits) == 0 || len(b.rules) == 0 {
			t.Errorf("bug %q: %v", b.name, err)
		}
		names[b.name] = true
	}
}

func TestDraw(t *testing.T) {
	many := func(seed uint64) (all []strike) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		for i := range 300 {
			all = append(all, draw(rnd, 1+i%6))
		}
		return all
	}
	victims, twice, snapshots := map[int]int{}, 0, 0
	for i, s := range many(1) {
		kills := len(s.hits)
		victims[kills]++
		for _, h := range s.hits {
			if h.again > 0 {
				kills++
				twice++
			}
			if h.snapshot {
				snapshots++
			}
		}
		if kills < 1 || kills > 1+i%6 {
			t.Errorf("%d kills where %d are left", kills, 1+i%6)
		}
	}
	if victims[1] == 0 || victims[2] == 0 || victims[3] == 0 || twice == 0 || snapshots == 0 {
		t.Errorf("victims of strikes %v, %d killed twice, %d in snapshots", victims, twice, snapshots)
	}
	if !reflect.DeepEqual(many(1), many(1)) || reflect.DeepEqual(many(1), many(2)) {
		t.Error("the strikes are not those of the seed")
	}
}

// TestJudge: what a server has is compared with what was acknowledged.
func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		known record
		have  uint64 // epoch of the scope on the server, 0 if it is not there
		want  string
	}{
		"as acknowledged":                  {record{epoch: 3}, 3, ""},
		"lost":                             {record{epoch: 3}, 0, writes.RuleLost},
		"another epoch":                    {record{epoch: 3}, 4, writes.RuleEpoch},
		"not acknowledged, there":          {record{}, 4, ""},
		"not acknowledged, not there":      {record{}, 0, ""},
		"retired":                          {record{epoch: 3, retires: true, retired: true}, 0, ""},
		"retired, there":                   {record{epoch: 3, retires: true, retired: true}, 3, writes.RuleBack},
		"asked to go, there":               {record{epoch: 3, retires: true}, 3, ""},
		"asked to go, there, strange":      {record{epoch: 3, retires: true}, 4, writes.RuleEpoch},
		"asked to go, and not there":       {record{epoch: 3, retires: true}, 0, ""},
		"asked to go, never acknowledged?": {record{retires: true}, 0, ""},
	} {
		l := newLedger()
		l.scopes["c1:1:"] = &c.known
		have := map[string]api.Scope{}
		if c.have != 0 {
			have["c1:1:"] = api.Scope{Prefix: "c1:1:", Epoch: c.have}
		}
		l.judge("s1", have, nil)
		wantRule(t, name, l, c.want)
	}
	l := newLedger()
	l.judge("s1", map[string]api.Scope{"x:": {Prefix: "x:", Epoch: 1}}, nil)
	wantRule(t, "a scope of nobody", l, writes.RuleGhost)
	for addr, want := range map[string]string{numbered(4): writes.RuleLost, numbered(5): "", numbered(6): "", numbered(7): writes.RuleGhost, "": writes.RuleLost} {
		l := newLedger()
		l.nodes["c1"] = &register{acked: 5, tried: 6}
		l.judge("s1", nil, []api.NodeState{{Node: api.Node{ID: "c1", Addr: addr}}})
		wantRule(t, "a node at "+addr, l, want)
	}
}

func wantRule(t *testing.T, name string, l *ledger, want string) {
	t.Helper()
	got := ""
	for _, w := range l.findings() {
		got += w.Rule
	}
	if got != want {
		t.Errorf("%s: found %q, want %q", name, got, want)
	}
}

func TestVerdict(t *testing.T) {
	good := result{counts: counts{acknowledged: 9}, tally: tally{kills: 3, ready: []time.Duration{1}}, checks: 1}
	if err := good.verdict(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*result){
		"a finding":           func(r *result) { r.wrong = []writes.Finding{{Rule: writes.RuleLost}} },
		"few mutations":       func(r *result) { r.counts.acknowledged = 2 },
		"no check":            func(r *result) { r.checks = 0 },
		"nobody became ready": func(r *result) { r.tally.ready = nil },
	} {
		bad := good
		change(&bad)
		if bad.verdict() == nil {
			t.Errorf("%s is no error", name)
		}
	}
}

// TestUnclean: lines of a log that no clean start gives, and lines that it may give.
func TestUnclean(t *testing.T) {
	for _, line := range []string{"raft store x is corrupt at log index 3: y", "a snapshot is damaged and is set aside; an older one and the log are used", "panic: x"} {
		if !unclean.MatchString(line) {
			t.Errorf("%q passes", line)
		}
	}
	if line := "[INFO]  caught up: index=3"; unclean.MatchString(line) {
		t.Errorf("%q does not pass", line)
	}
}

func TestFlags(t *testing.T) {
	for _, bad := range []string{"-kills=0", "-kills=100001", "-check=0", "twice", "-nothing"} {
		if code := start(&bytes.Buffer{}, []string{bad}); code != exitUsage {
			t.Errorf("%s ends with %d", bad, code)
		}
	}
	if o, err := parse(nil); err != nil || o.seed == 0 || o.kills != 1000 {
		t.Errorf("%+v, %v", o, err)
	}
	var said bytes.Buffer
	if code := start(&said, []string{"-root", t.TempDir()}); code != exitFailed || !strings.Contains(said.String(), "kills with seed") {
		t.Errorf("a root without sources ends with %d: %s", code, said.String())
	}
}
