package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/report"
)

func TestParse(t *testing.T) {
	o, err := parse(nil)
	if err != nil || o.compose != "docker-compose.yml" || o.project != "scope-registry-chaos" || o.seed == 0 || o.duration != 150*time.Second {
		t.Errorf("without flags: %+v, %v", o, err)
	}
	if o, err = parse([]string{"-seed", "7", "-duration", "1m"}); err != nil || o.seed != 7 || o.duration != time.Minute {
		t.Errorf("with flags: %+v, %v", o, err)
	}
	for _, args := range [][]string{{"-duration", "59s"}, {"-duration", "31m"}, {"-search", "0s"}, {"more"}, {"-nonsense"}} {
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
	if err := recheck(options{recheck: name, search: time.Second}); !errors.Is(err, errFailed) {
		t.Errorf("recheck: %v, want %v", err, errFailed)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := recheck(options{recheck: name, search: time.Second, out: out}); !errors.Is(err, errFailed) {
		t.Errorf("recheck: %v, want %v", err, errFailed)
	}
	if page, err := os.ReadFile(filepath.Join(out, pageName)); err != nil || !strings.Contains(string(page), "</html>") {
		t.Errorf("recheck wrote the page %q, %v", page, err)
	}
	if err := recheck(options{recheck: name + "x"}); !errors.Is(err, os.ErrNotExist) {
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
