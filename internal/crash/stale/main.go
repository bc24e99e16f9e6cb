// Command stale tries to have a leader that was stopped serve a stale read. In each
// round the links of the leader are slow; it is stopped (SIGSTOP), the others elect a
// leader and acknowledge a mutation, linearizable reads are sent to the one that is
// stopped, and it goes on (SIGCONT). It ends with exit status 1 if a read is answered
// from a state without that mutation. raft's VerifyLeader does not pass.
//
//	go run ./internal/crash/stale -rounds 300 -seed 1
//	go run ./internal/crash/stale -broken
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

	"github.com/scope-registry/scope-registry/internal/overlay"
	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	exitFailed = 1
	exitUsage  = 2
	// maxRounds bounds -rounds: a round takes some two seconds.
	maxRounds = 10_000
	// maxDelay bounds -delay: there and back must be within the leader's lease, 500 ms.
	maxDelay = 200 * time.Millisecond
)

// options are the flags.
type options struct {
	rounds       int
	delay        time.Duration
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
		fmt.Fprintf(os.Stderr, "stale: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	what := whole
	if o.broken {
		what = breakAll
	}
	if err := what(ctx, out, o); err != nil {
		fmt.Fprintf(os.Stderr, "stale: %v\n", err)
		return exitFailed
	}
	return 0
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("stale", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 300, "how many times the leader is stopped")
	f.DurationVar(&o.delay, "delay", 80*time.Millisecond, "what the links of the leader take, each way")
	f.Uint64Var(&o.seed, "seed", 0, "seed of all choices; 0 takes one by chance")
	f.StringVar(&o.root, "root", ".", "root of the repository")
	f.BoolVar(&o.keep, "keep", false, "keep logs and data even if nothing is wrong")
	f.BoolVar(&o.broken, "broken", false, "break the confirmation of reads in one way after the other, and see that each is found")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q is not understood; see -help", f.Args())
	case o.rounds < 1 || o.rounds > maxRounds:
		return o, fmt.Errorf("-rounds %d is not between 1 and %d", o.rounds, maxRounds)
	case o.delay < 0 || o.delay > maxDelay:
		return o, fmt.Errorf("-delay %v is not between 0 and %v", o.delay, maxDelay)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1 << 32)
	}
	return o, nil
}

// whole runs the servers as they are, and prints what came of it.
func whole(ctx context.Context, out io.Writer, o options) error {
	dir, err := os.MkdirTemp("", "scope-registry-stale-*")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d rounds with seed %d, in %s\n", o.rounds, o.seed, dir)
	began := time.Now()
	sum, err := attempt(ctx, o, dir, o.rounds, 0)
	if err == nil {
		sum.print(out, o, time.Since(began))
		err = sum.verdict(o)
	}
	if err != nil || o.keep {
		fmt.Fprintf(out, "logs and data: %s\n", dir)
		return err
	}
	return os.RemoveAll(dir)
}

// attempt builds a server with edits and runs so many rounds, or until so many reads
// were stale, unless 0.
func attempt(ctx context.Context, o options, dir string, rounds, enough int, edits ...overlay.Edit) (sum summary, err error) {
	bin, err := process.Build(ctx, o.root, dir, "./cmd/scope-registry", edits...)
	if err != nil {
		return sum, err
	}
	s, err := open(ctx, o, bin, filepath.Join(dir, "servers"))
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, ctx.Err(), s.close()) }()
	for sum.rounds < rounds && (enough == 0 || sum.stale < enough) {
		r, err := s.round(ctx)
		if err != nil {
			return sum, fmt.Errorf("seed %d, round %d: %w", o.seed, sum.rounds+1, err)
		}
		if sum.add(r); sum.void > maxVoid+sum.rounds {
			return sum, fmt.Errorf("seed %d: %d rounds said nothing, the last since %s", o.seed, sum.void, r.void)
		}
	}
	return sum, nil
}
