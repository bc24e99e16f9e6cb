package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/check"
	"github.com/scope-registry/scope-registry/internal/chaos/fault"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/report"
	"github.com/scope-registry/scope-registry/internal/load"
	"github.com/scope-registry/scope-registry/internal/overlay"
)

func TestParse(t *testing.T) {
	o, err := parse(nil)
	if err != nil || o.compose != "docker-compose.yml" || o.project != "scope-registry-chaos" || o.seed == 0 || o.duration != 150*time.Second {
		t.Errorf("without flags: %+v, %v", o, err)
	}
	if o, err = parse([]string{"-seed", "7", "-duration", "1m"}); err != nil || o.seed != 7 || o.duration != time.Minute {
		t.Errorf("with flags: %+v, %v", o, err)
	}
	for _, args := range [][]string{{"-duration", "59s"}, {"-duration", "31m"}, {"-search", "0s"}, {"-nodes", "5"}, {"-nodes", "1", "-local"}, {"-again", "6"}, {"more"}, {"-nonsense"}} {
		if _, err := parse(args); err == nil || errors.Is(err, flag.ErrHelp) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestAgain: the command has what makes a difference to the run, the seed that was
// taken by chance too, and not where the result goes.
func TestAgain(t *testing.T) {
	for want, args := range map[string][]string{
		"go run ./internal/chaos -seed 7 -duration=1m0s -local=true": {"-local", "-seed", "7", "-out", "there", "-duration", "1m", "-keep"},
		"make chaos CHAOSFLAGS='-seed 8 -scenario=mix'":              {"-scenario", "mix", "-seed", "8", "-root", "/here"},
	} {
		if o, err := parse(args); err != nil || o.command != want {
			t.Errorf("%q: %q, %v, want %q", args, o.command, err, want)
		}
	}
	o, err := parse([]string{"-local"})
	if want := fmt.Sprintf("-seed %d", o.seed); err != nil || !strings.Contains(o.command, want) {
		t.Errorf("%q, %v has not %q", o.command, err, want)
	}
}

// TestRecheck checks a history that shows nothing: it must not pass.
func TestRecheck(t *testing.T) {
	name := filepath.Join(t.TempDir(), "history.jsonl")
	l, err := history.Create(name, history.Setup{Servers: []string{"s1"}})
	if err != nil {
		t.Fatal(err)
	}
	l.Op(history.Op{Kind: history.Read, Server: "s1", Prefix: "p:", Outcome: history.Failed})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := recheck(options{recheck: name, search: time.Second}, io.Discard); !errors.Is(err, errFailed) {
		t.Errorf("recheck: %v, want %v", err, errFailed)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := recheck(options{recheck: name, search: time.Second, out: out}, io.Discard); !errors.Is(err, errFailed) {
		t.Errorf("recheck: %v, want %v", err, errFailed)
	}
	if page, err := os.ReadFile(filepath.Join(out, pageName)); err != nil || !strings.Contains(string(page), "</html>") {
		t.Errorf("recheck wrote the page %q, %v", page, err)
	}
	if err := recheck(options{recheck: name + "x"}, io.Discard); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("recheck of nothing: %v", err)
	}
}

func TestKeep(t *testing.T) {
	dir, err := outDir(filepath.Join(t.TempDir(), "new"))
	if err != nil {
		t.Fatal(err)
	}
	if err := keep(report.Of(&history.Run{}, nil, nil), &history.Run{}, dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"result.json", "summary.txt", pageName} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(data) == 0 {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

// TestBugsCanBePlanted: the texts that are changed are still there, and the names are known.
func TestBugsCanBePlanted(t *testing.T) {
	for _, b := range bugs {
		for _, edits := range [][]overlay.Edit{slices.Concat(load.Faster, load.FewEntries, load.FailPoints, b.registry), slices.Concat(load.FasterNodes, b.store)} {
			if _, err := overlay.Write(filepath.Join("..", ".."), t.TempDir(), edits); err != nil {
				t.Errorf("%s: %v", b.name, err)
			}
		}
		if _, err := fault.Named(b.scenario); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
		for _, name := range b.found {
			if !slices.ContainsFunc(check.All(&history.Run{}, time.Second), func(r check.Result) bool { return r.Name == name }) {
				t.Errorf("%s: no checker is called %q", b.name, name)
			}
		}
	}
}

// TestSeen: only a violation counts that one of the bug's own checkers has found.
func TestSeen(t *testing.T) {
	b := bug{found: []string{"set"}}
	for name, c := range map[string]struct {
		checks []check.Result
		want   string
	}{
		"its own":  {[]check.Result{{Name: "set", Violated: 1, Violations: []string{"lost"}}}, "set: lost"},
		"another":  {[]check.Result{{Name: "watch", Violated: 1, Violations: []string{"gap"}}}, ""},
		"void":     {[]check.Result{{Name: "set", Voids: []string{"little"}}}, ""},
		"no check": {nil, ""},
	} {
		if got := b.seen(c.checks); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestFaultsAreDocumented: every fault and every scenario has a row in the manual.
func TestFaultsAreDocumented(t *testing.T) {
	manual, err := os.ReadFile(filepath.Join("..", "..", "docs", "chaos.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fault.All() {
		if n := strings.Count(string(manual), "\n| "+f.Name+" |"); n != 1 {
			t.Errorf("docs/chaos.md has %d rows for the fault %s", n, f.Name)
		}
	}
	for _, name := range []string{fault.Servers, fault.Every, fault.Mix} {
		if !strings.Contains(string(manual), "\n| `"+name+"` |") {
			t.Errorf("docs/chaos.md has no row for the scenario %s", name)
		}
	}
}

// Servers that are not ready after a round break a promise, unless a fault of the round could not be undone.
func TestBlamed(t *testing.T) {
	slow := history.Fault{Name: "slow-leader", End: 3}
	dead := history.Fault{Name: "kill-follower", End: 2, Unhealed: true, Error: "server s2 did not become ready"}
	stuck := history.Fault{Name: "cut-follower", End: 1, Error: "the cable cannot be mended"}
	for what, c := range map[string]struct {
		round []history.Fault
		blame bool
	}{
		"by itself":                     {[]history.Fault{dead}, true},
		"beside one that healed":        {[]history.Fault{slow, dead}, true},
		"beside one that is not undone": {[]history.Fault{slow, dead, stuck}, false},
	} {
		all := blamed(slices.Clone(c.round))
		if !slices.IsSortedFunc(all, func(a, b history.Fault) int { return int(a.End - b.End) }) || len(all) != len(c.round) {
			t.Errorf("%s: %+v", what, all)
		}
		if got := slices.ContainsFunc(all, func(f history.Fault) bool { return f.Unhealed }); got != c.blame {
			t.Errorf("%s: blamed %v, want %v", what, got, c.blame)
		}
	}
}
