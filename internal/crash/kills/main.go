// Command kills kills real servers with SIGKILL at random instants under load: one,
// two or all three at once, while they start, while they write a snapshot; starts
// each again on its data, and ends with exit status 1 if a mutation that was
// acknowledged is lost, a start is not clean, a read is stale, or the states differ.
//
//	go run ./internal/crash/kills -kills 1000 -seed 1
//	go run ./internal/crash/kills -broken
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash"
	"github.com/scope-registry/scope-registry/internal/overlay"
	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	exitFailed = 1
	exitUsage  = 2
	// maxKills bounds -kills: a kill takes about a second.
	maxKills = 100_000
)

// small makes the servers write snapshots, drop entries of the log, move them from its
// journal and compare their states all the time. A server has no flags for it.
var small = []overlay.Edit{
	{File: "internal/registry/config.go", From: "defaultSnapshotThreshold = 8192", To: "defaultSnapshotThreshold = 32"},
	{File: "internal/registry/config.go", From: "snapshotInterval = 5 * time.Second", To: "snapshotInterval = 200 * time.Millisecond"},
	{File: "internal/registry/journal.go", From: "journalHalf = 4 << 20", To: "journalHalf = 32 << 10"},
	{File: "internal/registry/statecheck.go", From: "defaultCheckEvery = 1000", To: "defaultCheckEvery = 100"},
}

// options are the flags.
type options struct {
	kills, every int
	seed         uint64
	root         string
	keep, broken bool
}

func main() { os.Exit(start(os.Stdout, os.Args[1:])) }

func start(out io.Writer, args []string) int {
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "kills: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	what := whole
	if o.broken {
		what = breakAll
	}
	if err := what(ctx, out, o); err != nil {
		fmt.Fprintf(os.Stderr, "kills: %v\n", err)
		return exitFailed
	}
	return 0
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("kills", flag.ContinueOnError)
	f.IntVar(&o.kills, "kills", 1000, "how many times a server is killed")
	f.IntVar(&o.every, "check", 50, "after how many kills everything that was acknowledged is looked for on every server")
	f.Uint64Var(&o.seed, "seed", 0, "seed of who is killed when; 0 takes one by chance")
	f.StringVar(&o.root, "root", ".", "root of the repository")
	f.BoolVar(&o.keep, "keep", false, "keep logs and data even if nothing is wrong")
	f.BoolVar(&o.broken, "broken", false, "break the server in one way after the other, and see that each is found")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q is not understood; see -help", f.Args())
	case o.kills < 1 || o.kills > maxKills:
		return o, fmt.Errorf("-kills %d is not between 1 and %d", o.kills, maxKills)
	case o.every < 1:
		return o, fmt.Errorf("-check %d is less than 1", o.every)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1 << 32)
	}
	return o, nil
}

// whole runs the servers as they are, and prints what came of it.
func whole(ctx context.Context, out io.Writer, o options) error {
	dir, err := os.MkdirTemp("", "scope-registry-kills-*")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d kills with seed %d, in %s\n", o.kills, o.seed, dir)
	bin, err := process.Build(ctx, o.root, dir, "./cmd/scope-registry", small...)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	r, err := run(ctx, o, bin, filepath.Join(dir, "servers"))
	if err == nil {
		r.print(out)
		err = r.verdict()
	}
	if err == nil {
		fmt.Fprintln(out, "nothing lost, every start clean, all states equal")
	}
	if err != nil || o.keep {
		fmt.Fprintf(out, "logs and data: %s\n", dir)
		return err
	}
	return os.RemoveAll(dir)
}

// run kills servers of a program, whose data and logs stay in dir, until the number
// of kills is reached or a rule is broken.
func run(ctx context.Context, o options, bin, dir string) (r result, err error) {
	c, err := crash.Open(crash.Config{Bin: bin, Dir: dir})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, ctx.Err(), c.Close()) }()
	opening, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	if err := c.WaitReady(opening); err != nil {
		return r, err
	}
	l, err := newLoad(ctx, c, o.seed)
	if err != nil {
		return r, err
	}
	began := time.Now()
	s := &starts{l: l, ends: map[string]func() bool{}}
	defer s.wait()
	status, checks, err := s.until(ctx, o)
	l.stop()
	s.wait()
	return result{o: o, took: time.Since(began), counts: l.total(), tally: s.tally, wrong: l.findings(), status: status, checks: checks}, err
}

// until strikes until the number of kills is reached or a rule is broken.
func (s *starts) until(ctx context.Context, o options) (status api.Cluster, checks int, err error) {
	rnd := rand.New(rand.NewPCG(o.seed, 0))
	for next := o.every; s.tally.kills < o.kills; {
		if err := s.strike(ctx, draw(rnd, o.kills-s.tally.kills)); err != nil {
			return status, checks, err
		}
		if s.tally.kills >= min(next, o.kills) {
			next += o.every
			checks++
			if status, err = s.check(ctx); err != nil {
				return status, checks, err
			}
		}
		if len(s.l.findings()) > 0 {
			break
		}
	}
	return status, checks, nil
}
